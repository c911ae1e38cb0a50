"""The reader's own rules, with sources that do as they are told: the seam is ours."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from detector_worker.core.clock import Backoff, SystemClock
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.streams.stream_errors import stream_error
from detector_worker.streams.stream_reader import StreamReader

_IMAGE = np.zeros((2, 2, 3), np.uint8)


class _Source:
    """Gives as many frames as it was told, then raises, or ends where it has nothing to raise."""

    def __init__(self, stopping: threading.Event, *, frames: int = 0, error: StreamError | Exception | None) -> None:
        self.stopping, self.frames, self.error = stopping, frames, error
        self.opens, self.closes = 0, 0

    def handle_reconnection(self) -> None:
        self.opens += 1

    def read_frame(self) -> Frame | None:
        if self.frames:
            self.frames -= 1
            return Frame(_IMAGE, camera_id="cam", frame_id=1, time_s=0, captured_at=0)
        if self.error is None:
            self.stopping.wait(5)
            return None
        raise self.error

    def close(self) -> None:
        self.closes += 1


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
) -> StreamReader:
    return StreamReader(
        new_source,
        deliver,
        camera_id="cam",
        backoff=Backoff(base_s=base_s),
        notify=statuses,
        clock=SystemClock(),
        max_retries=max_retries,
        silent_after_s=silent_after_s,
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


def test_silence_is_told_once_and_ends_with_the_next_frame() -> None:
    gate = threading.Event()

    class Halting(_Source):
        def read_frame(self) -> Frame | None:
            if self.frames == 1:
                gate.wait(5)
            return super().read_frame()

    reader = _reader(lambda stopping: Halting(stopping, frames=2, error=None), s := _Statuses(), silent_after_s=0.05)
    reader.start()
    s.wait_for(StreamState.ACTIVE)
    deadline_s = time.monotonic() + 5
    while StreamState.STALLED not in [status.state for status in s.all] and time.monotonic() < deadline_s:
        reader.check_silence()
    reader.check_silence()
    gate.set()
    told = s.wait_for(StreamState.ACTIVE, StreamState.STALLED, StreamState.ACTIVE)
    assert reader.stop()

    assert [status.state for status in told].count(StreamState.STALLED) == 1


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
    reader._thread.join(5)
    assert [status.state for status in statuses.all] == [StreamState.CONNECTING]


def test_it_can_be_stopped_before_it_was_started() -> None:
    reader = _reader(lambda stopping: _Source(stopping, error=None), _Statuses())

    assert reader.stop()
