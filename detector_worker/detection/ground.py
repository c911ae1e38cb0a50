"""How the scene looks where no object stands, so that what hides an object is told from the empty place it has left."""

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox
from detector_worker.core.frame import Frame, FrameScaler

__all__ = ["Ground"]

_WIDTH: Final = 160
_LOOK_EVERY_S: Final = 1.0
_BESIDE: Final = 0.15  # of a box's size, around it: shadows, and the rim that a detector leaves out
_INNER: Final = 0.15  # of a box's size, at its rim: it may be somebody else's
_SAME: Final = 10.0  # grey levels, in the mean of a place: the light changes by less while a vehicle is hidden
_LEAST_KNOWN: Final = 0.5  # of a place


class Ground:
    """Remembers a small grey picture, cell by cell from when each was free. Pure: times come with the frames."""

    def __init__(self) -> None:
        self._scaler = FrameScaler()
        self._wh = (0, 0)
        self._free = np.empty((0, 0), np.float32)
        self._looked_s = -np.inf

    def look(self, frame: Frame, occupied: Iterable[BoundingBox]) -> None:
        """Remember what lies beside the places that are, or may be, occupied; once in a second at most."""
        if 0 <= frame.time_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = frame.time_s
        luma = self._luma(frame)
        if frame.wh != self._wh:
            self._wh, self._free = frame.wh, np.full(luma.shape, np.nan, np.float32)
        is_free = np.ones(luma.shape, np.bool_)
        for box in occupied:
            is_free[self._cells(box, _BESIDE)] = False
        self._free[is_free] = luma[is_free]

    def is_changed(self, frame: Frame, place: BoundingBox) -> bool:
        """True if a place shows something else than the ground; False too where the ground was never seen."""
        if frame.wh != self._wh:
            return False
        cells = self._cells(place, -_INNER)
        difference = np.abs(self._luma(frame)[cells] - self._free[cells])
        known = np.isfinite(difference)
        return bool(difference.size and known.mean() >= _LEAST_KNOWN and difference[known].mean() > _SAME)

    def _luma(self, frame: Frame) -> NDArray[np.float32]:
        width, height = frame.wh
        return frame.luma((_WIDTH, max(1, round(_WIDTH * height / width))), self._scaler).astype(np.float32)

    def _cells(self, box: BoundingBox, beside: float) -> tuple[slice, slice]:
        """Return rows and columns of a box that is grown on each side by a share of its size."""
        scale = _WIDTH / self._wh[0]
        width, height = box.wh
        rows = slice(*_span(box.y1 - beside * height, box.y2 + beside * height, scale, self._free.shape[0]))
        return rows, slice(*_span(box.x1 - beside * width, box.x2 + beside * width, scale, self._free.shape[1]))


def _span(first_px: float, last_px: float, scale: float, cells: int) -> tuple[int, int]:
    first = min(max(0, int(first_px * scale)), cells)
    return first, min(max(first, int(np.ceil(last_px * scale))), cells)
