"""How the scene looks where no object stands, so that what hides an object is told from the empty place it has left."""

from collections.abc import Iterable
from typing import Final

import numpy as np

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
        self._frame: Frame | None = None
        self._luma = self._free = self._light = np.empty((0, 0), np.float32)
        self._light_now = np.nan
        self._looked_s = -np.inf

    def look(self, frame: Frame, occupied: Iterable[BoundingBox]) -> None:
        """Remember what lies beside the places that are, or may be, occupied; once in a second at most."""
        if 0 <= frame.time_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = frame.time_s
        self._take(frame)
        is_free = np.ones(self._luma.shape, np.bool_)
        for box in occupied:
            is_free[self._cells(box, _BESIDE)] = False
        if is_free.any():
            self._light_now = max(1.0, float(np.median(self._luma[is_free])))
            self._free[is_free], self._light[is_free] = self._luma[is_free], self._light_now

    def is_changed(self, frame: Frame, place: BoundingBox) -> bool:
        """True if a place shows something else than the ground; False too where the ground was never seen.

        The light may have changed since the place was free: as it did where it is free now.
        """
        self._take(frame)
        cells = self._cells(place, -_INNER)
        difference = np.abs(self._luma[cells] - self._free[cells] * (self._light_now / self._light[cells]))
        known = np.isfinite(difference)
        return bool(difference.size and known.mean() >= _LEAST_KNOWN and difference[known].mean() > _SAME)

    def _take(self, frame: Frame) -> None:
        """Make the frame's small picture, unless it was made before; one of another size begins anew."""
        if frame is self._frame:
            return
        width, height = frame.wh
        if self._frame is None or frame.wh != self._frame.wh:
            shape = max(1, round(_WIDTH * height / width)), _WIDTH
            self._free, self._light = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
        self._frame, (rows, columns) = frame, self._free.shape
        self._luma = frame.luma((columns, rows), self._scaler).astype(np.float32)

    def _cells(self, box: BoundingBox, beside: float) -> tuple[slice, slice]:
        """Return rows and columns of a box that is grown on each side by a share of its size."""
        scale = _WIDTH / self._frame.wh[0] if self._frame else 0.0
        width, height = box.wh
        rows = slice(*_span(box.y1 - beside * height, box.y2 + beside * height, scale, self._free.shape[0]))
        return rows, slice(*_span(box.x1 - beside * width, box.x2 + beside * width, scale, self._free.shape[1]))


def _span(first_px: float, last_px: float, scale: float, cells: int) -> tuple[int, int]:
    first = min(max(0, int(first_px * scale)), cells)
    return first, min(max(first, int(np.ceil(last_px * scale))), cells)
