"""How long the tracker takes for a frame, next to the trackers of another project. Measures, and compares."""

import pytest

from benchmarks.tracking.speed import ms_per_frame, peers_over_ours

pytestmark = pytest.mark.performance


@pytest.mark.parametrize("objects", [20, 100])
def test_a_frame_takes_far_less_time_than_with_the_peers(objects: int) -> None:
    taken = ms_per_frame(objects)

    times = peers_over_ours(taken)
    print(f"\n{objects} objects:", ", ".join(f"{name} {ms:.3f} ms" for name, ms in taken.items()), f"{times:.1f} times")  # noqa: T201
    assert times >= 2.5
