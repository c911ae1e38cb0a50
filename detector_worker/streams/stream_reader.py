"""The thread of one camera."""

import logging
import threading
from collections import deque
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
_RATE_WINDOW_FRAMES: Final = 32


class StreamReader:
    """Keeps one camera connected and its newest frame. Owns its thread; never waits for a camera's consumer.

    The states that it tells: ``connecting`` at each attempt, ``active`` with the first frame, ``stalled`` after
    a silence, ``error`` with the time of the next attempt, ``failed`` when it has given up, ``stopped`` when a
    film has ended. It tells nothing any more once `request_stop` was called.
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
            new_source: Makes a fresh source for each attempt, so that none is half open; its argument is set
                when the reader must end.
            deliver: Takes each frame, in the reader's thread. For a camera it must not wait.
            camera_id: For statuses and logs.
            backoff: Says how long to wait between attempts.
            notify: Takes each change of state, in any thread; must not wait.
            clock: Of silence.
            max_retries: Attempts after the first until it gives up; -1: it never does.
            silent_after_s: Without a frame for longer than this it is ``stalled``.
        """
        self._new_source, self._deliver, self._notify = new_source, deliver, notify
        self._camera_id, self._backoff, self._clock = camera_id, backoff, clock
        self._max_retries, self._silent_after_s = max_retries, silent_after_s
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._status = StreamStatus(camera_id, StreamState.CONNECTING)
        self._alive_s = clock.monotonic_s()
        self._arrivals: deque[float] = deque(maxlen=_RATE_WINDOW_FRAMES)
        self._latest: Frame | None = None
        self._thread = self._new_thread()

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
        return not self.is_running

    def reconnect(self) -> None:
        """Connect anew at once: ends a waiting time, an open connection, and having given up."""
        self._wake.set()
        with self._lock:
            if not self._stopping.is_set() and self._status.state is StreamState.FAILED:
                self._status = StreamStatus(self._camera_id, StreamState.CONNECTING)
                self._thread = self._new_thread()
                self._thread.start()

    @property
    def is_running(self) -> bool:
        """True while its thread lives."""
        return self._thread.is_alive()

    @property
    def status(self) -> StreamStatus:
        """What was told last."""
        return self._status

    def get_latest_frame(self) -> Frame | None:
        """Return the newest frame; None before the first."""
        return self._latest

    def fps(self) -> float:
        """Return the rate of arriving frames over the last few of them; it sinks while none arrive."""
        arrivals = self._arrivals
        if len(arrivals) < 2:
            return 0.0
        return (len(arrivals) - 1) / max(1e-6, self._clock.monotonic_s() - arrivals[0])

    def check_silence(self) -> None:
        """Tell ``stalled`` where it is due; to be called about every second from outside: the thread may be stuck."""
        silent_s = self._clock.monotonic_s() - self._alive_s
        if silent_s < self._silent_after_s:
            return
        with self._lock:
            if self._status.state in {StreamState.ACTIVE, StreamState.CONNECTING}:
                reason = f"No picture for {silent_s:.0f} s"
                self._tell(StreamStatus(self._camera_id, StreamState.STALLED, "timeout", reason=reason))

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._reader_loop, name=f"reader-{self._camera_id}", daemon=True)

    def _reader_loop(self) -> None:
        while not self._stopping.is_set():
            try:
                self._read_until_the_end()
            except StreamError as exc:
                error = exc
            except Exception as exc:  # noqa: BLE001 - the camera's boundary: a bug here stays here
                _log.exception("Reader of camera %s: unexpected error", self._camera_id)
                what = f"Unexpected {type(exc).__name__} in the reader"
                error = StreamError(what, where=f"camera {self._camera_id}", mend="Please report this.")
            else:
                return
            if not self._wait_for_next_attempt(error):
                return

    def _read_until_the_end(self) -> None:
        """Connect and deliver; returns when a film has ended or the reader is stopping."""
        with closing(self._new_source(self._stopping)) as source:
            self._wake.clear()
            self._change(StreamState.CONNECTING, attempt=self._backoff.errors)
            source.connect()
            while (frame := source.read_frame()) is not None and not self._stopping.is_set():
                self._take(frame)
                if self._wake.is_set():
                    self._wake.clear()
                    if self._stopping.is_set():
                        return
                    self._change(StreamState.CONNECTING)
                    source.handle_reconnection()
        self._change(StreamState.STOPPED, error_class="ended", reason="The film has ended")

    def _take(self, frame: Frame) -> None:
        now_s = self._clock.monotonic_s()
        self._alive_s = now_s
        self._latest = frame
        self._arrivals.append(now_s)
        self._backoff.note_success(now_s)
        if self._status.state is not StreamState.ACTIVE:
            self._change(StreamState.ACTIVE)
        self._deliver(frame)

    def _wait_for_next_attempt(self, error: StreamError) -> bool:
        """Tell the error and wait; False: that was the last attempt, or the reader is stopping."""
        delay_s = self._backoff.next_delay_s(at_cap=error.error_class in _NO_HASTE)
        attempt, reason = self._backoff.errors, str(error)
        if 0 <= self._max_retries < attempt:
            self._change(StreamState.FAILED, error_class=error.error_class, attempt=attempt, reason=reason)
            return False
        self._change(
            StreamState.ERROR, error_class=error.error_class, attempt=attempt, retry_in_s=delay_s, reason=reason
        )
        if not self._stopping.is_set():  # looked at last, for whoever sets it wakes afterwards
            self._wake.wait(delay_s)
        return not self._stopping.is_set()

    def _change(
        self,
        state: StreamState,
        *,
        error_class: str | None = None,
        attempt: int = 0,
        retry_in_s: float | None = None,
        reason: str | None = None,
    ) -> None:
        if state is StreamState.CONNECTING:
            self._alive_s = self._clock.monotonic_s()
        with self._lock:
            self._tell(StreamStatus(self._camera_id, state, error_class, attempt, retry_in_s, reason))

    def _tell(self, status: StreamStatus) -> None:
        """Under the lock: so nothing follows `request_stop`, and changes are told in their order."""
        if not self._stopping.is_set():
            self._status = status
            self._notify(status)
