"""PostgreSQL and Redis fail in every way we know: nothing is lost or doubled, all is in order, the other one goes on.

Several outages at a time, each with a spool, drainers and a load of its own; `-s` prints the table of
docs/reliability.md.
"""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.folders import open_folder
from support.storage_faults.harms import FROZEN, HARMS, KILLED, Harm
from support.storage_faults.outages import Outage, Plan, suffer
from support.storage_faults.tables import outage_table

from detector_worker.core.outbox import Sink
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers

pytestmark = pytest.mark.faults

SHORT_S = 10.0
LONG_S = 60.0
VISITS_PER_S = 12.0
OF_POSTGRESQL = [(harm, (Sink.POSTGRESQL,)) for harm in HARMS]
OF_REDIS = [(harm, (Sink.REDIS,)) for harm in HARMS]
OF_BOTH = [(harm, tuple(Sink)) for harm in (KILLED, FROZEN)]


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


async def suffer_all(
    cases: Sequence[tuple[Harm, tuple[Sink, ...]]], folder: Path, healthy: EmbeddedServers, *, lasts_s: float
) -> None:
    folders = [folder / str(number) for number in range(len(cases))]
    for each in folders:
        each.mkdir(mode=0o711)
    plans = [Plan(harm, sinks, lasts_s, VISITS_PER_S) for harm, sinks in cases]
    outcomes = await asyncio.gather(
        *(suffer(plan, each, healthy) for plan, each in zip(plans, folders, strict=True)), return_exceptions=True
    )
    print(outage_table([one for one in outcomes if isinstance(one, Outage)]))  # noqa: T201 - a measurement
    wrong = [
        f"{plan.name}: {one!r}" for plan, one in zip(plans, outcomes, strict=True) if isinstance(one, BaseException)
    ]
    wrong += [str(one) for one in outcomes if isinstance(one, Outage) and one.problems]
    assert not wrong, "\n".join(wrong)


async def test_outages_of_postgresql_lose_and_double_nothing(folder: Path, servers: EmbeddedServers) -> None:
    await suffer_all(OF_POSTGRESQL, folder, servers, lasts_s=SHORT_S)


async def test_outages_of_redis_and_of_both_lose_and_double_nothing(folder: Path, servers: EmbeddedServers) -> None:
    await suffer_all([*OF_REDIS, *OF_BOTH], folder, servers, lasts_s=SHORT_S)


@pytest.mark.soak
@pytest.mark.parametrize("cases", [OF_POSTGRESQL, OF_REDIS, OF_BOTH], ids=["postgresql", "redis", "both"])
async def test_long_outages_lose_and_double_nothing(
    cases: Sequence[tuple[Harm, tuple[Sink, ...]]], folder: Path, servers: EmbeddedServers
) -> None:
    await suffer_all(cases, folder, servers, lasts_s=LONG_S)
