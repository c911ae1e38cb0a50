"""The thread of one camera, and its replacement where it is stuck."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from detector_worker.core.clock import Backoff, Clock
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.streams.frame_reader import FrameSource
from detector_worker.streams.picture_watch import PictureWatch
from detector_worker.streams.stream_errors import stream_error

__all__ = ["StreamReader"]

_log: Final = logging.getLogger(__name__)
_NO_HASTE: Final = frozenset({"authentication", "not_found"})
"""Errors that only people mend: a locked account must not be tried every few seconds."""
_LATE_S: Final = 3.0
"""Who looks for silence so late was away itself, frozen or asleep: no camera is to blame for that."""
_UNDER_WAY: Final = frozenset({StreamState.CONNECTING, StreamState.ACTIVE, StreamState.STALLED})
_ABORTED_FOR_S: Final = 1.0
"""How long a silent source may take to end its call before its thread is given up."""


@dataclass(eq=False, slots=True)
class _Run:
    """One thread with its source; replaced as a whole where the thread does not come back from a call."""

    source: FrameSource
    stopping: threading.Event
    wake: threading.Event = field(default_factory=threading.Event)
    fault: StreamError | None = None
    """Why the watchdog has ended its call, once it has."""
    aborted_s: float = 0.0
    """When that was, monotonic seconds."""
    thread: threading.Thread | None = None

    def stop(self) -> None:
        self.stopping.set()
        self.wake.set()
        self.source.abort()


class StreamReader:
    """Keeps one camera connected and its newest frame. Owns its thread; never waits for a camera's consumer.

    The states that it tells: ``connecting`` at each attempt, ``active`` with the first frame, ``stalled`` after
    a silence, ``error`` with the time of the next attempt, ``failed`` when it has given up until `reconnect`.
    It tells nothing any more once `request_stop` was called.
    """

    def __init__(
        self,
        new_source: Callable[[threading.Event], FrameSource],
        deliver: Callable[[Frame], None],
        *,
        camera_id: str,
        backoff: Backoff,
        notify: Callable[[StreamStatus], None],
        clock: Clock,
        max_retries: int = -1,
        silent_after_s: float = 8.0,
        frozen_after_s: float | None = None,
        numbers: Iterator[int] | None = None,
    ) -> None:
        """Wire it; `start` starts it.

        Args:
            new_source: Makes the camera's source; its argument is set when the reader must end.
            deliver: Takes each frame, in the reader's thread; must not wait.
            camera_id: For statuses and logs.
            backoff: Says how long to wait between attempts.
            notify: Takes each change of state, in any thread; must not wait.
            clock: Of silence and waiting.
            max_retries: Attempts after the first until it gives up; -1: it never does.
            silent_after_s: Without a frame for longer than this it is ``stalled``, and opened anew.
            frozen_after_s: A picture that has not changed for so long counts as none; None: it may stand for ever.
            numbers: Gives the frames their ids; shared by readers whose frames go to the same lanes.
        """
        self._new_source, self._deliver, self._notify = new_source, deliver, notify
        self._camera_id, self._backoff, self._clock = camera_id, backoff, clock
        self._max_retries, self._silent_after_s, self._frozen_after_s = max_retries, silent_after_s, frozen_after_s
        self._numbers = count(1) if numbers is None else numbers
        self._lock = threading.RLock()
        self._status = StreamStatus(camera_id, StreamState.CONNECTING)
        self._watch = PictureWatch()
        self._alive_s = self._checked_s = clock.monotonic_s()
        self._latest: Frame | None = None
        self._damaged_before = 0
        self._given_up: list[threading.Thread] = []
        self._is_stopped = False
        self._run = self._new_run()

    def start(self) -> None:
        """Start reading."""
        self._start(self._run, after_s=0.0)

    def request_stop(self) -> None:
        """Ask it to end, without waiting: nothing is told any more, and no further frame is fetched."""
        with self._lock:
            self._is_stopped = True
        self._run.stop()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End it and wait for its thread; False: it is stuck in a call, and ends by itself with that call."""
        self.request_stop()
        thread = self._run.thread
        if thread is None:
            return True
        thread.join(max(0.0, timeout_s))
        return not thread.is_alive()

    def reconnect(self) -> None:
        """Connect anew at once: ends a waiting time, an open connection, and having given up."""
        with self._lock:  # else the attempt that it wakes to could be the one that it ends
            self._run.wake.set()
            self._run.source.abort()

    def get_latest_frame(self) -> Frame | None:
        """Return the newest frame; None before the first."""
        return self._latest

    @property
    def damaged(self) -> int:
        """Pictures that were withheld because they were damaged."""
        return self._damaged_before + self._run.source.damaged

    def stuck_threads(self) -> list[threading.Thread]:
        """Return the threads that are lost in a call: those given up, and its own once it was told to stop."""
        if self._is_stopped and self._run.thread is not None:
            return [one for one in (*self._given_up, self._run.thread) if one.is_alive()]
        self._given_up = [one for one in self._given_up if one.is_alive()]
        return self._given_up

    def check_silence(self) -> None:
        """End a silent call, and give its thread up where that does not help; to be called twice a second."""
        with self._lock:
            run, now_s = self._run, self._clock.monotonic_s()
            was_away, self._checked_s = now_s - self._checked_s > _LATE_S, now_s
            if was_away:
                self._alive_s, run.aborted_s = max(self._alive_s, now_s), max(run.aborted_s, now_s)
            if self._is_stopped or self._status.state not in _UNDER_WAY:
                return
            if run.fault is not None:
                if now_s - run.aborted_s >= _ABORTED_FOR_S:
                    self._give_up(run, run.fault)
            elif (fault := self._silence(run.source, now_s)) is not None:
                run.fault, run.aborted_s = fault, now_s
                self._tell(StreamState.STALLED, "timeout", reason=str(fault))
                run.source.abort()
            elif self._status.state is StreamState.ACTIVE and run.source.alive_s is not None:
                self._backoff.note_success(run.source.alive_s)
                self._tell_warnings(run.source, now_s)

    def _silence(self, source: FrameSource, now_s: float) -> StreamError | None:
        """Return what is wrong where no picture has come for too long; the same one again is a sign of life."""
        same_s, silent_s = now_s - self._alive_s, now_s - max(self._alive_s, source.alive_s or self._alive_s)
        if silent_s >= self._silent_after_s:
            return self._timeout(f"No picture for {silent_s:.0f} s")
        if self._frozen_after_s is not None and source.alive_s is not None and same_s >= self._frozen_after_s:
            return self._timeout(f"The picture has not changed for {same_s:.0f} s")
        return None

    def _timeout(self, what: str) -> StreamError:
        return stream_error("timeout", what, where=f"camera {self._camera_id}")

    def _give_up(self, run: _Run, fault: StreamError) -> None:
        """Leave a thread that is stuck inside a library to itself; a new one goes on with a new source."""
        following = self._new_run()
        delay_s, told = self._next_attempt(fault)
        self._start(following, after_s=delay_s)
        if run.thread is not None:
            self._given_up.append(run.thread)
        _log.warning("Camera %s: its thread is stuck in a call and was replaced", self._camera_id)
        run.stopping.set()
        run.wake.set()
        self._damaged_before += run.source.damaged
        self._run = following
        self._publish(told)

    def _new_run(self) -> _Run:
        stopping = threading.Event()
        return _Run(self._new_source(stopping), stopping)

    def _start(self, run: _Run, *, after_s: float | None) -> None:
        """Start a thread; with None it waits until it is asked."""
        name = f"reader-{self._camera_id}"
        run.thread = threading.Thread(target=self._reader_loop, args=(run, after_s), name=name, daemon=True)
        run.thread.start()

    def _reader_loop(self, run: _Run, after_s: float | None) -> None:
        self._clock.wait(run.wake, after_s)
        while True:
            with self._lock:
                run.wake.clear()  # before the look at stopping, which is set before it wakes
            if run.stopping.is_set():
                return
            try:
                self._read_until_woken(run)
            except StreamError as exc:
                self._wait_for_next_attempt(run, exc)
            except Exception as exc:  # noqa: BLE001 - the camera's boundary: a bug here stays here
                _log.exception("Reader of camera %s: unexpected error", self._camera_id)
                what = f"Unexpected {type(exc).__name__} in the reader"
                where = f"camera {self._camera_id}"
                self._wait_for_next_attempt(run, StreamError(what, where=where, mend="Please report this."))

    def _read_until_woken(self, run: _Run) -> None:
        with self._lock:
            if run is not self._run:
                return
            run.fault, self._alive_s = None, self._clock.monotonic_s()
            self._watch.forget()
            self._tell(StreamState.CONNECTING, attempt=self._backoff.errors)
        with closing(run.source) as source:
            source.handle_reconnection()
            while not run.wake.is_set() and (frame := source.read_frame()) is not None:
                if run.fault is None and not run.stopping.is_set():
                    self._take(source, frame)

    def _take(self, source: FrameSource, frame: Frame) -> None:
        now_s = self._alive_s = self._clock.monotonic_s()
        self._watch.look(frame, now_s)
        if self._frozen_after_s is not None and self._watch.frozen_s >= self._frozen_after_s:
            raise self._timeout(f"The picture has not changed for {self._watch.frozen_s:.0f} s")
        frame.frame_id = next(self._numbers)
        self._latest = frame
        self._backoff.note_success(now_s)
        if self._status.state is not StreamState.ACTIVE:
            self._tell(StreamState.ACTIVE, warnings=self._warnings(source, now_s))
        else:
            self._tell_warnings(source, now_s)
        self._deliver(frame)

    def _warnings(self, source: FrameSource, now_s: float) -> tuple[str, ...]:
        return ("blind",) * self._watch.is_blind(now_s) + ("clock_suspect",) * source.clock_is_suspect

    def _tell_warnings(self, source: FrameSource, now_s: float) -> None:
        warnings = self._warnings(source, now_s)
        if warnings != self._status.warnings:
            self._tell(StreamState.ACTIVE, warnings=warnings)

    def _wait_for_next_attempt(self, run: _Run, error: StreamError) -> None:
        """Tell the error and wait: for its time, or to be asked where that was the last attempt."""
        with self._lock:
            if run is not self._run or run.wake.is_set():  # replaced, or its call was ended on purpose
                return
            delay_s, told = self._next_attempt(run.fault or error)
            self._publish(told)
        self._clock.wait(run.wake, delay_s)

    def _next_attempt(self, error: StreamError) -> tuple[float | None, StreamStatus]:
        """Count an error; return the time until the next attempt, None where there is none, and what is to be told."""
        delay_s: float | None = self._backoff.next_delay_s(at_cap=error.error_class in _NO_HASTE)
        state, attempt = StreamState.ERROR, self._backoff.errors
        if 0 <= self._max_retries < attempt:
            state, delay_s = StreamState.FAILED, None
        return delay_s, StreamStatus(self._camera_id, state, error.error_class, attempt, delay_s, str(error))

    def _tell(
        self,
        state: StreamState,
        error_class: str | None = None,
        *,
        attempt: int = 0,
        reason: str | None = None,
        warnings: tuple[str, ...] = (),
    ) -> None:
        self._publish(StreamStatus(self._camera_id, state, error_class, attempt, reason=reason, warnings=warnings))

    def _publish(self, status: StreamStatus) -> None:
        with self._lock:  # so nothing follows `request_stop`, and changes are told in their order
            if not self._is_stopped:
                self._status = status
                self._notify(status)
