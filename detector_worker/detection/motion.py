"""Whether a frame shows anything that the last analysed ones did not: else nobody needs to look for objects in it."""

import math
from collections.abc import Iterable, Sequence
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.frame import Frame, FrameScaler, Region

__all__ = ["MotionGate"]

Cells = NDArray[np.float32]

_WIDTH: Final = 160  # cells across what is looked at: 8 pixels of 1280
_MOST_WIDTH: Final = 640  # cells across the whole picture, where only a small region of it is looked at
_SMALLEST_PX: Final = 16  # width or height of a region that makes a picture
_GRAIN: Final = (3, 3)  # cells: noise and drops average out over them, the smallest vehicle of use does not
_BODY: Final = np.ones((5, 5), np.uint8)  # cells: what changes all of them at once is a body or a light
_CHANGE: Final = 3.0  # grey levels; sensors' noise and key frames reach 1.2
_MOST_CHANGE: Final = 8.0  # grey levels that count as a change in whatever weather
_WEATHER: Final = 6.5  # the strongest change that heavy rain makes, over the upper quartile of its flicker
_WEATHER_PACE: Final = 0.1  # share of the newest frame in what is known of the flicker
_LOOSE: Final = 0.5  # of its range: how far beyond it a cell may go besides, since what sways is never quite the same
_FORGOTTEN_S: Final = 30.0  # in which the range of a cell shrinks to 1/e


class MotionGate:
    """Compares each frame with what was analysed before, and found at rest. Pure: times come with the frames.

    Each cell of a small picture has a range: how bright it was in analysed frames in which nothing was on its way. A
    frame is *still* if every cell lies in its range, or hardly beside. Frames that are passed over teach nothing, so
    the small steps of a slow vehicle add up until it is looked at. Drops, flicker and a swaying mast widen the ranges
    where they are, for a while, as often as the detector is asked and finds that all stands; what changes like a body,
    all over, replaces them instead: else a road would soon be used to any brightness.

    Args:
        recheck_seconds: How often a still scene is to be analysed all the same.
        region: Where objects are looked for (x1, y1, x2, y2), pixels of the full frame; None: everywhere.
        ignored: Where none count, likewise.
    """

    def __init__(
        self, *, recheck_seconds: float, region: Region | None = None, ignored: Iterable[Sequence[float]] = ()
    ) -> None:
        self._recheck_s, self._region, self._ignored = recheck_seconds, region, tuple(ignored)
        self._scaler = FrameScaler()
        self._frame_wh: tuple[int, int] | None = None
        self._luma: Cells | None = None
        self._view = self._low = self._high = np.empty((0, 0), np.float32)
        self._flicker, self._at_rest = 0.0, False
        self._time_s = self._analysed_s = self._learned_s = -math.inf

    def is_still(self, frame: Frame) -> bool:
        """True if a frame need not be analysed; if it is, `note_analysed` follows before the next one."""
        self._look(frame)
        if not self._at_rest or not 0 <= frame.time_s - self._analysed_s < self._recheck_s:
            return False
        return not any(change.any() for change in self._changes())

    def note_analysed(self, *, at_rest: bool) -> None:
        """The frame was analysed; ``at_rest``: of what was found in it or before, nothing is on its way."""
        self._analysed_s = self._time_s
        if at_rest:  # while anything moves, nobody asks for the ranges
            self._learn(is_news=not self._at_rest)
        self._at_rest = at_rest

    def _look(self, frame: Frame) -> None:
        """Take the mean of this frame and the one before: a drop is in one of them, a vehicle in both."""
        if frame.wh != self._frame_wh:
            self._begin(frame.wh)
        luma = frame.luma(self._wh, self._scaler)[self._part].astype(np.float32) * self._matters
        before = luma if self._luma is None else self._luma
        view = cast("Cells", cv2.blur((luma + before) / 2, _GRAIN))
        if self._at_rest:
            flicker = np.abs(view - self._view)[::4, ::4].ravel()
            upper_quartile = float(np.partition(flicker, flicker.size * 3 // 4)[flicker.size * 3 // 4])
            self._flicker += (_WEATHER_PACE if self._flicker else 1.0) * (upper_quartile - self._flicker)
        self._luma, self._view, self._time_s = luma, view, frame.time_s

    def _begin(self, frame_wh: tuple[int, int]) -> None:
        """Prepare for frames of a size, of which nothing is known yet."""
        width, height = self._frame_wh = frame_wh
        x1, y1, x2, y2 = _clipped(self._region or (0, 0, width, height), frame_wh)
        columns = min(_MOST_WIDTH, round(_WIDTH * width / (x2 - x1)))
        self._wh = columns, max(1, round(columns * height / width))
        matters = np.ones(self._wh[::-1], np.float32)
        for one in self._ignored:
            matters[self._cells_in(one)] = 0.0
        self._part = self._cells_in((x1, y1, x2, y2))
        self._matters = matters[self._part]
        self._luma = None
        self._view = self._low = self._high = np.zeros_like(self._matters)
        self._flicker, self._at_rest = 0.0, False

    def _cells_in(self, region: Sequence[float]) -> tuple[slice, slice]:
        """Return the rows and columns that a region covers, to the nearest ones."""
        scale = np.array(self._wh * 2) / np.array(cast("tuple[int, int]", self._frame_wh) * 2)
        x1, y1, x2, y2 = np.maximum(np.rint(np.array(region) * scale), 0).astype(int).tolist()
        return slice(y1, y2), slice(x1, x2)

    def _changes(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return which cells of the newest frame are clearly darker (1, else 0) than their ranges, which brighter."""
        tolerance = min(max(_CHANGE, _WEATHER * self._flicker), _MOST_CHANGE) + _LOOSE * (self._high - self._low)
        darker, brighter = self._view < self._low - tolerance, self._view > self._high + tolerance
        return darker.view(np.uint8), brighter.view(np.uint8)

    def _learn(self, *, is_news: bool) -> None:
        """Take the newest frame into the ranges; with ``is_news`` what has changed came to stand, or went away."""
        darker, brighter = self._changes()
        if not is_news:
            darker, brighter = _bodies(darker), _bodies(brighter)
        passed_s = self._time_s - self._learned_s
        kept = (1 - (darker | brighter)) * np.float32(math.exp(-passed_s / _FORGOTTEN_S) if passed_s >= 0 else 0.0)
        self._low = self._view - np.maximum(self._view - self._low, 0.0) * kept
        self._high = self._view + np.maximum(self._high - self._view, 0.0) * kept
        self._learned_s = self._time_s


def _bodies(cells: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return of marked cells (1, else 0) those that lie close together."""
    return cast("NDArray[np.uint8]", cv2.morphologyEx(cells, cv2.MORPH_OPEN, _BODY))


def _clipped(region: Region, frame_wh: tuple[int, int]) -> Region:
    """Return what of a region is in a frame; all of the frame where that is hardly anything."""
    (x1, y1, x2, y2), (width, height) = region, frame_wh
    x1, y1, x2, y2 = max(0, x1), max(0, y1), min(width, x2), min(height, y2)
    return (x1, y1, x2, y2) if min(x2 - x1, y2 - y1) >= _SMALLEST_PX else (0, 0, width, height)
