"""The thread of one camera."""

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Final

from detector_worker.core.clock import Backoff, Clock
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.streams.frame_reader import FrameSource

__all__ = ["StreamReader"]

_log: Final = logging.getLogger(__name__)
_NO_HASTE: Final = frozenset({"authentication", "not_found"})
"""Errors that only people mend: a locked account must not be tried every few seconds."""


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
    ) -> None:
        """Wire it; `start` starts it.

        Args:
            new_source: Makes the camera's source; its argument is set when the reader must end.
            deliver: Takes each frame, in the reader's thread; must not wait.
            camera_id: For statuses and logs.
            backoff: Says how long to wait between attempts.
            notify: Takes each change of state, in any thread; must not wait.
            clock: Of silence.
            max_retries: Attempts after the first until it gives up; -1: it never does.
            silent_after_s: Without a frame for longer than this it is ``stalled``.
        """
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._source, self._deliver, self._notify = new_source(self._stopping), deliver, notify
        self._camera_id, self._backoff, self._clock = camera_id, backoff, clock
        self._max_retries, self._silent_after_s = max_retries, silent_after_s
        self._lock = threading.RLock()
        self._state = StreamState.CONNECTING
        self._alive_s = clock.monotonic_s()
        self._latest: Frame | None = None
        self._thread = threading.Thread(target=self._reader_loop, name=f"reader-{camera_id}", daemon=True)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def request_stop(self) -> None:
        """Ask it to end, without waiting: nothing is told any more, and no further frame is fetched."""
        with self._lock:
            self._stopping.set()
        self._wake.set()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """End it and wait for its thread; False: it is stuck in a call, and ends by itself with that call."""
        self.request_stop()
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def reconnect(self) -> None:
        """Connect anew at once: ends a waiting time, an open connection, and having given up."""
        self._wake.set()

    def get_latest_frame(self) -> Frame | None:
        """Return the newest frame; None before the first."""
        return self._latest

    def check_silence(self) -> None:
        """Tell ``stalled`` where it is due; to be called about every second from outside: the thread may be stuck."""
        silent_s = self._clock.monotonic_s() - self._alive_s
        with self._lock:
            if silent_s >= self._silent_after_s and self._state in {StreamState.ACTIVE, StreamState.CONNECTING}:
                self._tell(StreamState.STALLED, "timeout", reason=f"No picture for {silent_s:.0f} s")

    def _reader_loop(self) -> None:
        while True:
            self._wake.clear()  # before the look at stopping, which is set before it wakes
            if self._stopping.is_set():
                return
            try:
                self._read_until_woken()
            except StreamError as exc:
                self._wait_for_next_attempt(exc)
            except Exception as exc:  # noqa: BLE001 - the camera's boundary: a bug here stays here
                _log.exception("Reader of camera %s: unexpected error", self._camera_id)
                what = f"Unexpected {type(exc).__name__} in the reader"
                where = f"camera {self._camera_id}"
                self._wait_for_next_attempt(StreamError(what, where=where, mend="Please report this."))

    def _read_until_woken(self) -> None:
        self._alive_s = self._clock.monotonic_s()
        self._tell(StreamState.CONNECTING, attempt=self._backoff.errors)
        with closing(self._source) as source:
            source.handle_reconnection()
            while not self._wake.is_set() and (frame := source.read_frame()) is not None:
                self._alive_s = self._clock.monotonic_s()
                self._latest = frame
                self._backoff.note_success(self._alive_s)
                if self._state is not StreamState.ACTIVE:
                    self._tell(StreamState.ACTIVE)
                self._deliver(frame)

    def _wait_for_next_attempt(self, error: StreamError) -> None:
        """Tell the error and wait: for its time, or to be asked where that was the last attempt."""
        delay_s: float | None = self._backoff.next_delay_s(at_cap=error.error_class in _NO_HASTE)
        state, attempt = StreamState.ERROR, self._backoff.errors
        if 0 <= self._max_retries < attempt:
            state, delay_s = StreamState.FAILED, None
        self._tell(state, error.error_class, attempt=attempt, retry_in_s=delay_s, reason=str(error))
        self._wake.wait(delay_s)

    def _tell(
        self,
        state: StreamState,
        error_class: str | None = None,
        *,
        attempt: int = 0,
        retry_in_s: float | None = None,
        reason: str | None = None,
    ) -> None:
        with self._lock:  # so nothing follows `request_stop`, and changes are told in their order
            if not self._stopping.is_set():
                self._state = state
                self._notify(StreamStatus(self._camera_id, state, error_class, attempt, retry_in_s, reason))
