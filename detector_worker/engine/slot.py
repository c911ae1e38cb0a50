"""Where a reader leaves its newest frame for a lane."""

import threading
from typing import Final

from detector_worker.core.frame import Frame

__all__ = ["FrameSlot"]

_CHECK_S: Final = 0.5
_ROUNDING_S: Final = 0.001
_EARLY_SHARE: Final = 0.1


class FrameSlot:
    """One place for one frame; thread-safe.

    For a camera the newest frame wins: what it overwrites is counted. A *lossless* slot, for files, makes
    the reader wait instead. A frame before the lane's next due time is not kept at all, so that an
    analysed rate below the camera's costs nothing and what is analysed is fresh.
    """

    def __init__(self, *, target_fps: float | None, lossless: bool) -> None:
        self._period_s = 1 / target_fps if target_fps else 0.0
        self._lossless = lossless
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._due_s: float | None = None
        self._closed = False
        self.dropped = 0
        """Frames that were due but overwritten before a thread was free."""

    def put(self, frame: Frame) -> bool:
        """Leave a frame; True if it waits here now."""
        with self._changed:
            if not self._is_due(frame.time_s):
                return False
            while self._lossless and self._frame is not None and not self._closed:
                self._changed.wait(_CHECK_S)
            if self._closed:
                return False
            if self._frame is not None:
                self.dropped += 1
            self._frame = frame
            return True

    def take(self) -> Frame:
        """Take the frame that waits.

        Raises:
            LookupError: None waits.
        """
        with self._changed:
            if self._frame is None:
                raise LookupError("no frame waits in the slot")
            frame, self._frame = self._frame, None
            # On a grid, so that the mean rate is the wanted one; off the grid after a pause.
            grid_s = frame.time_s if self._due_s is None else self._due_s + self._period_s
            self._due_s = grid_s if grid_s > frame.time_s else frame.time_s + self._period_s
            self._changed.notify_all()
            return frame

    def waiting_since_s(self) -> float | None:
        """Return the time of the frame that waits, if one does."""
        frame = self._frame
        return None if frame is None else frame.time_s

    def close(self) -> None:
        """Take no further frame, and let a waiting reader go."""
        with self._changed:
            self._closed = True
            self._frame = None
            self._changed.notify_all()

    def _is_due(self, time_s: float) -> bool:
        # A camera whose own rate is the wanted one delivers a little early as often as late.
        if self._due_s is None or time_s >= self._due_s - max(_ROUNDING_S, _EARLY_SHARE * self._period_s):
            return True
        if time_s < self._due_s - 2 * self._period_s - 1.0:  # the clock ran backwards: begin anew
            self._due_s = None
            return True
        return False
