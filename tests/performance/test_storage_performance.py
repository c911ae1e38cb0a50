"""Figures of the storage, printed (``-s``); only ratios within one run can fail."""

import pytest

from benchmarks.storage.report import as_text, measure

pytestmark = [pytest.mark.performance, pytest.mark.timeout(300)]


def test_accepting_and_draining_next_to_the_plainest_ways() -> None:
    found = measure(rounds=1, tell=print)

    print(f"\n{as_text(found)}")  # noqa: T201
    assert found["drained_rows_ratio"] > 0.1
    assert found["drained_images_ratio"] > 0.2
    assert found["accepted_records_per_s"] > 2 / found["idle_p50_ms"] * 1000  # many writers share the disk
