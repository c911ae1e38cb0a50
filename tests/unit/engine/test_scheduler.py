import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.waiting import wait_until_sync

from detector_worker.engine.scheduler import Scheduler


class CountingLane:
    """A lane that always has a frame, captured when the last one was done."""

    def __init__(self, work: Callable[[], None] = lambda: None) -> None:
        self.analysed, self.most_in_flight = 0, 0
        self._in_flight = 0
        self._since_s = 0.0
        self._work = work

    def waiting_since_s(self) -> float | None:
        return None if self._in_flight else self._since_s

    def begin(self) -> Callable[[], None]:
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        return self._analyse

    def _analyse(self) -> None:
        self._work()
        self.analysed += 1
        self._since_s += 1.0

    def end(self) -> None:
        self._in_flight -= 1


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler(threads=2)
    scheduler.start()
    yield scheduler
    assert scheduler.stop() == []


def test_no_lane_starves_and_none_has_two_frames_in_flight(scheduler: Scheduler) -> None:
    enough = threading.Event()
    lanes = [CountingLane() for _ in range(7)]
    lanes[0]._work = lambda: enough.set() if lanes[0].analysed >= 200 else None
    for lane in lanes:
        scheduler.add(lane)
    scheduler.wake()
    assert enough.wait(10)
    for lane in lanes:
        scheduler.remove(lane)

    assert {lane.most_in_flight for lane in lanes} == {1}
    # Not 200: while the system holds back the thread that has a lane in flight, the others go on.
    assert min(lane.analysed for lane in lanes) >= 67


def test_a_lane_that_raises_does_not_cost_its_thread(scheduler: Scheduler) -> None:
    def fail() -> None:
        raise ValueError("a bug")

    enough = threading.Event()
    healthy = CountingLane()
    healthy._work = lambda: enough.set() if healthy.analysed >= 50 else None
    broken = CountingLane(fail)
    scheduler.add(broken)
    scheduler.add(healthy)
    scheduler.wake()

    assert enough.wait(10)
    scheduler.remove(healthy)
    scheduler.remove(broken)


async def test_branch_work_returns_its_result_or_raises_its_error(scheduler: Scheduler) -> None:
    def fail() -> int:
        raise LookupError("no such class")

    assert await scheduler.run(lambda: 42) == 42
    with pytest.raises(LookupError, match="no such class"):
        await scheduler.run(fail)


async def test_branch_work_never_holds_more_than_half_of_the_threads(scheduler: Scheduler) -> None:
    release = threading.Event()
    analysed = asyncio.Event()
    loop = asyncio.get_running_loop()
    slow = [asyncio.create_task(scheduler.run(lambda: release.wait(10))) for _ in range(4)]
    lane = CountingLane()
    lane._work = lambda: (loop.call_soon_threadsafe(analysed.set), None)[1]
    scheduler.add(lane)
    scheduler.wake()

    await asyncio.wait_for(analysed.wait(), 5)  # while four jobs wait for one thread
    assert not any(task.done() for task in slow)
    scheduler.remove(lane)
    release.set()
    assert await asyncio.gather(*slow) == [True] * 4


async def test_branch_work_goes_on_beside_busy_lanes(scheduler: Scheduler) -> None:
    lanes = [CountingLane() for _ in range(8)]
    for lane in lanes:
        scheduler.add(lane)
    scheduler.wake()

    results = await asyncio.wait_for(asyncio.gather(*(scheduler.run(lambda n=n: n) for n in range(20))), 10)  # type: ignore[misc]

    assert results == list(range(20))
    for lane in lanes:
        scheduler.remove(lane)


async def test_work_that_waits_is_cancelled_at_the_stop() -> None:
    scheduler = Scheduler(threads=1)
    task = asyncio.create_task(scheduler.run(lambda: 1))
    await asyncio.sleep(0)

    scheduler._threads = []  # never started
    scheduler.stop()

    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_longest_task_under_way_is_told(scheduler: Scheduler) -> None:
    begun, let_go = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        let_go.wait(5)

    assert scheduler.busy_s(time.monotonic()) == 0
    lane = CountingLane(hang)
    scheduler.add(lane)
    scheduler.wake()
    assert begun.wait(5)

    assert 30 <= scheduler.busy_s(time.monotonic() + 30) < 35
    scheduler.remove(lane)
    let_go.set()
    wait_until_sync(lambda: scheduler.busy_s(time.monotonic()) == 0)
