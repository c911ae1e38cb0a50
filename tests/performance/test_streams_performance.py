"""What reading a camera costs, printed (``-s``); only ratios within one run can fail."""

from pathlib import Path

import pytest
from support.stream_costs import KINDS, REFERENCE, measure_costs
from support.stream_tables import cost_table

pytestmark = [pytest.mark.performance, pytest.mark.timeout(300)]


async def test_cpu_time_of_each_kind_of_camera(tmp_path: Path) -> None:
    costs = {cost.kind.name: cost for cost in await measure_costs(tmp_path, rounds=3, seconds=4)}
    print(cost_table(list(costs.values())))  # noqa: T201 - a measurement
    reference_ms = costs[REFERENCE.name].ms_per_frame

    for kind in KINDS:
        cost = costs[kind.name]
        assert cost.wh == kind.wh
        wanted = 1 / kind.interval_s if kind.is_http else 25
        assert cost.rate > 0.8 * wanted, f"{kind.name}: {cost.rate:.1f} pictures a second"
        pixels = kind.wh[0] * kind.wh[1] / (REFERENCE.wh[0] * REFERENCE.wh[1])
        assert cost.ms_per_frame < 10 * pixels * reference_ms, kind.name
