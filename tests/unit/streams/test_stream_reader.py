"""The reader's own rules, with sources that do as they are told: the seam is ours."""

import ctypes
import random
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from support.waiting import wait_until_sync

from detector_worker.core.clock import Backoff, Clock, SystemClock
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.streams.stream_errors import stream_error
from detector_worker.streams.stream_reader import StreamReader

_IMAGE = np.zeros((2, 2, 3), np.uint8)


class _Source:
    """Gives as many frames as it was told, then raises, or waits for its end where it has nothing to raise."""

    damaged = 0
    clock_is_suspect = False
    alive_s: float | None = None

    def __init__(self, stopping: threading.Event, *, frames: int = 0, error: StreamError | Exception | None) -> None:
        self.stopping, self.frames, self.error = stopping, frames, error
        self.opens, self.closes = 0, 0
        self.aborted = threading.Event()

    def handle_reconnection(self) -> None:
        self.opens += 1
        self.aborted.clear()

    def read_frame(self) -> Frame | None:
        if self.frames:
            self.frames -= 1
            return Frame(self.image(), camera_id="cam", frame_id=1, time_s=0, captured_at=0)
        if self.error is None:
            self.aborted.wait(5)
            raise stream_error("ended", where="cam")
        raise self.error

    def image(self) -> NDArray[np.uint8]:
        return _IMAGE

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None:
        self.closes += 1


def _watched(reader: StreamReader, condition: Callable[[], bool]) -> Callable[[], bool]:
    """A condition that, each time it is asked, looks for silence first, as the manager does."""

    def ask() -> bool:
        reader.check_silence()
        return condition()

    return ask


class _Statuses:
    def __init__(self) -> None:
        self.all: list[StreamStatus] = []
        self._changed = threading.Condition()

    def __call__(self, status: StreamStatus) -> None:
        with self._changed:
            self.all.append(status)
            self._changed.notify_all()

    def wait_for(self, *states: StreamState) -> list[StreamStatus]:
        """Wait until these states were told, in this order and nothing between."""

        def told() -> bool:
            found = [status.state for status in self.all]
            return any(found[at : at + len(states)] == list(states) for at in range(len(found)))

        with self._changed:
            assert self._changed.wait_for(told, 5), self.all
            return list(self.all)


def _reader(
    new_source: Callable[[threading.Event], _Source],
    statuses: _Statuses,
    *,
    deliver: Callable[[Frame], None] = lambda frame: None,
    base_s: float = 0.01,
    max_retries: int = -1,
    silent_after_s: float = 8.0,
    frozen_after_s: float | None = None,
    clock: Clock | None = None,
    rng: random.Random | None = None,
) -> StreamReader:
    return StreamReader(
        new_source,
        deliver,
        camera_id="cam",
        backoff=Backoff(base_s=base_s, rng=rng),
        notify=statuses,
        clock=clock or SystemClock(),
        max_retries=max_retries,
        silent_after_s=silent_after_s,
        frozen_after_s=frozen_after_s,
    )


def test_each_attempt_opens_its_source_and_closes_it_before_the_wait() -> None:
    sources: list[_Source] = []

    class OneFrame(_Source):
        def handle_reconnection(self) -> None:
            assert self.opens == self.closes
            self.frames = 1
            super().handle_reconnection()

    def new_source(stopping: threading.Event) -> _Source:
        sources.append(OneFrame(stopping, error=stream_error("ended", where="cam")))
        return sources[-1]

    reader = _reader(new_source, statuses := _Statuses())
    reader.start()
    cycle = StreamState.CONNECTING, StreamState.ACTIVE, StreamState.ERROR
    statuses.wait_for(*cycle, *cycle, *cycle)
    assert reader.stop()

    (source,) = sources
    assert source.opens == source.closes >= 3


def test_after_its_last_attempt_it_has_failed_and_says_why() -> None:
    reader = _reader(
        lambda stopping: _Source(stopping, error=stream_error("refused", where="cam")),
        statuses := _Statuses(),
        max_retries=2,
    )
    reader.start()
    told = statuses.wait_for(StreamState.FAILED)
    assert reader.stop()

    assert [status.attempt for status in told if status.state is StreamState.ERROR] == [1, 2]
    assert (told[-1].error_class, told[-1].attempt, told[-1].retry_in_s) == ("refused", 3, None)


@pytest.mark.parametrize("error_class", ["authentication", "not_found"])
def test_an_error_that_people_must_mend_waits_the_cap_at_once(error_class: str) -> None:
    reader = _reader(
        lambda stopping: _Source(stopping, error=stream_error(error_class, "x", where="cam")), (s := _Statuses())
    )
    reader.start()
    told = s.wait_for(StreamState.ERROR)
    reader.stop()

    assert told[-1].retry_in_s is not None
    assert 45 <= told[-1].retry_in_s <= 60


def test_a_bug_in_a_source_is_an_error_of_this_camera_and_tried_again() -> None:
    reader = _reader(lambda stopping: _Source(stopping, error=ZeroDivisionError()), statuses := _Statuses())
    reader.start()
    told = statuses.wait_for(StreamState.ERROR, StreamState.CONNECTING)
    assert reader.stop()

    assert "ZeroDivisionError" in str(told[1].reason)


def test_waiting_ends_at_once_when_it_is_asked_to_reconnect() -> None:
    reader = _reader(
        lambda stopping: _Source(stopping, error=stream_error("refused", where="cam")),
        statuses := _Statuses(),
        base_s=60,
    )
    reader.start()
    statuses.wait_for(StreamState.ERROR)
    reader.reconnect()
    statuses.wait_for(StreamState.ERROR, StreamState.CONNECTING, StreamState.ERROR)
    assert reader.stop()


def test_a_stream_that_has_failed_is_tried_again_when_asked() -> None:
    reader = _reader(
        lambda stopping: _Source(stopping, error=stream_error("refused", where="cam")),
        statuses := _Statuses(),
        max_retries=0,
    )
    reader.start()
    statuses.wait_for(StreamState.FAILED)
    reader.reconnect()
    statuses.wait_for(StreamState.FAILED, StreamState.CONNECTING, StreamState.FAILED)
    assert reader.stop()


def test_an_open_connection_is_renewed_when_asked() -> None:
    sources: list[_Source] = []
    delivered = threading.Event()

    def new_source(stopping: threading.Event) -> _Source:
        sources.append(_Source(stopping, frames=10_000_000, error=None))
        return sources[-1]

    reader = _reader(new_source, statuses := _Statuses(), deliver=lambda frame: delivered.set())
    reader.start()
    assert delivered.wait(5)
    reader.reconnect()
    statuses.wait_for(StreamState.ACTIVE, StreamState.CONNECTING, StreamState.ACTIVE)
    assert reader.stop()

    assert [(source.opens, source.closes) for source in sources] == [(2, 2)]


def test_a_silent_source_is_told_aborted_and_opened_anew() -> None:
    reader = _reader(lambda stopping: _Source(stopping, frames=1, error=None), s := _Statuses(), silent_after_s=0.05)
    reader.start()
    s.wait_for(StreamState.ACTIVE)
    wait_until_sync(_watched(reader, lambda: StreamState.STALLED in {status.state for status in s.all}))
    told = s.wait_for(StreamState.ACTIVE, StreamState.STALLED, StreamState.ERROR, StreamState.CONNECTING)
    assert reader.stop()

    error = next(status for status in told if status.state is StreamState.ERROR)
    assert error.error_class == "timeout"
    assert "No picture" in str(error.reason)


class _SamePictures(_Source):
    """As HTTP snapshots that do not change: no new frame, but signs of life."""

    def read_frame(self) -> Frame | None:
        while not self.frames and not self.aborted.wait(0.01):
            self.alive_s = time.monotonic()
        return super().read_frame()


def test_an_unchanged_snapshot_is_a_fault_where_that_was_asked_for() -> None:
    reader = _reader(
        lambda stop: _SamePictures(stop, frames=1, error=None), s := _Statuses(), frozen_after_s=0.5, base_s=60
    )
    reader.start()
    s.wait_for(StreamState.ACTIVE)
    wait_until_sync(_watched(reader, lambda: StreamState.ERROR in {status.state for status in s.all}))
    assert reader.stop()

    assert "not changed" in str(s.all[-1].reason)


def test_a_camera_is_not_to_blame_for_a_time_in_which_nobody_looked() -> None:
    clock = _FastClock(end_s=0)
    reader = _reader(lambda stop: _Source(stop, frames=1, error=None), s := _Statuses(), clock=clock)
    reader.start()
    s.wait_for(StreamState.ACTIVE)
    reader.check_silence()
    clock.now_s += 100
    reader.check_silence()
    assert StreamState.STALLED not in {status.state for status in s.all}

    for _ in range(20):
        clock.now_s += 0.5
        reader.check_silence()
    s.wait_for(StreamState.STALLED)
    assert reader.stop()


def test_a_source_that_says_it_is_alive_is_not_silent() -> None:
    reader = _reader(lambda stop: _SamePictures(stop, frames=1, error=None), s := _Statuses(), silent_after_s=0.1)
    reader.start()
    s.wait_for(StreamState.ACTIVE)
    for _ in range(50):
        time.sleep(0.01)
        reader.check_silence()
    assert reader.stop()

    assert StreamState.STALLED not in {status.state for status in s.all}


def test_a_thread_that_is_stuck_in_c_is_replaced_and_counted_as_long_as_it_is() -> None:
    sources: list[_Source] = []

    class StuckInC(_Source):
        def read_frame(self) -> Frame | None:
            if self is sources[0]:
                ctypes.CDLL(None).usleep(3_000_000)
            return super().read_frame()

    def new_source(stopping: threading.Event) -> _Source:
        sources.append(StuckInC(stopping, frames=1, error=None))
        return sources[-1]

    reader = _reader(new_source, s := _Statuses(), silent_after_s=0.1)
    reader.start()
    wait_until_sync(_watched(reader, lambda: len(sources) == 2))
    assert len(reader.stuck_threads()) == 1

    told = s.wait_for(StreamState.STALLED, StreamState.ERROR, StreamState.CONNECTING, StreamState.ACTIVE)
    assert [status.error_class for status in told if status.state is StreamState.ERROR] == ["timeout"]
    wait_until_sync(lambda: not reader.stuck_threads())
    assert sources[0].closes == 1
    assert reader.stop()


def test_frame_ids_go_on_after_a_replacement() -> None:
    frames: list[Frame] = []
    sources: list[_Source] = []

    class StuckAfterTwo(_Source):
        def read_frame(self) -> Frame | None:
            if not self.frames and self is sources[0]:
                ctypes.CDLL(None).usleep(2_000_000)
            return super().read_frame()

    def new_source(stopping: threading.Event) -> _Source:
        sources.append(StuckAfterTwo(stopping, frames=2, error=None))
        return sources[-1]

    reader = _reader(new_source, _Statuses(), deliver=frames.append, silent_after_s=0.1)
    reader.start()
    wait_until_sync(_watched(reader, lambda: len(sources) == 2))
    wait_until_sync(lambda: len(frames) == 4)
    wait_until_sync(lambda: not reader.stuck_threads())
    assert reader.stop()

    assert [frame.frame_id for frame in frames] == [1, 2, 3, 4]


class _FastClock:
    """Waiting takes no time but on this clock; after ``end_s`` it waits for the end."""

    def __init__(self, end_s: float) -> None:
        self.now_s, self._end_s = 0.0, end_s

    def monotonic_s(self) -> float:
        return self.now_s

    def utc_s(self) -> float:
        return self.now_s

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        if timeout_s is None or self.now_s + timeout_s > self._end_s:
            return event.wait(5)
        self.now_s += timeout_s
        return event.is_set()


def test_an_outage_of_two_hours_takes_the_attempts_that_the_rule_gives() -> None:
    clock, attempts = _FastClock(end_s=7200), list[float]()

    class Refusing(_Source):
        def handle_reconnection(self) -> None:
            attempts.append(clock.now_s)
            raise stream_error("refused", where="cam")

    reader = _reader(
        lambda stopping: Refusing(stopping, error=None), _Statuses(), base_s=5, clock=clock, rng=random.Random(4)
    )
    reader.start()
    wait_until_sync(lambda: attempts and attempts[-1] > 7200 - 60)
    assert reader.stop()

    jitter, expected, at_s = random.Random(4), [0.0], 0.0
    for number in range(len(attempts) - 1):
        at_s += min(60.0, 5.0 * 2 ** min(number, 6)) * (1 - 0.25 * jitter.random())
        expected.append(at_s)
    assert attempts == pytest.approx(expected)
    assert 120 <= len(attempts) <= 165  # every 45 to 60 s once the delay has reached its cap


@pytest.mark.parametrize(("after_s", "states"), [(0.5, {"timeout"}), (None, set())])
def test_a_frozen_picture_is_a_fault_only_where_that_was_asked_for(after_s: float | None, states: set[str]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (180, 320, 3), np.uint8)

    class SamePicture(_Source):
        def read_frame(self) -> Frame | None:
            self.frames = 1
            time.sleep(0.02)
            return super().read_frame()

        def image(self) -> NDArray[np.uint8]:
            return noise

    reader = _reader(lambda stop: SamePicture(stop, error=None), s := _Statuses(), frozen_after_s=after_s, base_s=60)
    reader.start()
    s.wait_for(StreamState.ACTIVE)
    time.sleep(1.5)
    assert reader.stop()

    assert {status.error_class for status in s.all if status.error_class} == states


def test_a_warning_is_told_without_a_change_of_state() -> None:
    class Suspect(_Source):
        def read_frame(self) -> Frame | None:
            self.clock_is_suspect = self.frames == 1
            return super().read_frame()

    reader = _reader(lambda stopping: Suspect(stopping, frames=2, error=None), s := _Statuses())
    reader.start()
    told = s.wait_for(StreamState.ACTIVE, StreamState.ACTIVE)
    assert reader.stop()

    assert [status.warnings for status in told[-2:]] == [(), ("clock_suspect",)]


def test_nothing_is_told_after_it_was_asked_to_stop() -> None:
    hold = threading.Event()

    class Stuck(_Source):
        def handle_reconnection(self) -> None:
            hold.wait(5)
            raise stream_error("timeout", where="cam")

    reader = _reader(lambda stopping: Stuck(stopping, error=None), statuses := _Statuses())
    reader.start()
    statuses.wait_for(StreamState.CONNECTING)

    assert not reader.stop(timeout_s=0.1)
    hold.set()
    assert reader._run.thread is not None
    reader._run.thread.join(5)
    assert [status.state for status in statuses.all] == [StreamState.CONNECTING]


def test_it_can_be_stopped_before_it_was_started() -> None:
    reader = _reader(lambda stopping: _Source(stopping, error=None), _Statuses())

    assert reader.stop()
