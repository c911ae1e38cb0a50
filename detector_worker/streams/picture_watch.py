"""Whether a camera still sees anything: covered, black, out of focus, or frozen."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.frame import Frame, FrameScaler

__all__ = ["PictureWatch"]

_LOOK_EVERY_S: Final = 1.0
_WH: Final = (320, 180)
_TILE_PX: Final = 10
_FLAT: Final = 3.0
"""Standard deviation below which a tile shows nothing, grey levels."""
_BLIND_SHARE: Final = 0.9
"""Of flat tiles: scenes by night have up to 0.8, a black picture with a burned-in clock 0.95."""
_LEAST_DETAIL: Final = 0.09
"""Mean Laplacian over contrast: sharp pictures have 0.15 to 0.4, those blurred over 8 of 1280 pixels under 0.08."""
_BLIND_AFTER_S: Final = 10.0
_SAME: Final = 0.5
"""Mean difference of two pictures below which nothing has changed, not even noise, grey levels."""


class PictureWatch:
    """Looks at one of a camera's pictures each second. Belongs to the reader's thread; the time is given."""

    def __init__(self) -> None:
        self._scaler = FrameScaler()
        self._due_s = float("-inf")
        self._sees_nothing_since_s: float | None = None
        self._reference: NDArray[np.uint8] | None = None
        self._same_since_s = 0.0
        self.frozen_s = 0.0
        """For how long the picture has not changed at all, seconds."""

    def look(self, frame: Frame, now_s: float) -> None:
        """Look at a frame where it is time to; about half a millisecond then."""
        if now_s < self._due_s:
            return
        self._due_s = now_s + _LOOK_EVERY_S
        luma = frame.luma(_WH, self._scaler)
        self._judge_sight(luma, now_s)
        self._judge_change(luma, now_s)

    def is_blind(self, now_s: float) -> bool:
        """Whether it has been covered, black or out of focus for ten seconds at ``now_s``; from any thread."""
        since_s = self._sees_nothing_since_s
        return since_s is not None and now_s - since_s >= _BLIND_AFTER_S

    def forget(self) -> None:
        """Begin anew: a new connection's first pictures may well look like the last ones."""
        self._reference, self.frozen_s = None, 0.0

    def _judge_sight(self, luma: NDArray[np.uint8], now_s: float) -> None:
        if not _shows_nothing(luma):
            self._sees_nothing_since_s = None
        elif self._sees_nothing_since_s is None:
            self._sees_nothing_since_s = now_s

    def _judge_change(self, luma: NDArray[np.uint8], now_s: float) -> None:
        if self._reference is None or cv2.norm(luma, self._reference, cv2.NORM_L1) / luma.size >= _SAME:
            self._reference, self._same_since_s = luma, now_s
        self.frozen_s = now_s - self._same_since_s


def _shows_nothing(luma: NDArray[np.uint8]) -> bool:
    height, width = luma.shape
    tiles = luma.reshape(height // _TILE_PX, _TILE_PX, width // _TILE_PX, _TILE_PX)
    flat_share = float((tiles.astype(np.float32).std(axis=(1, 3)) < _FLAT).mean())
    contrast = max(1.0, float(luma.std()))
    detail = float(np.abs(cv2.Laplacian(luma, cv2.CV_16S)).mean()) / contrast
    return flat_share >= _BLIND_SHARE or detail < _LEAST_DETAIL
