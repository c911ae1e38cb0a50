"""The best pictures of an object that may become a visit, so that the visit begins with good ones.

Pictures are held by reference and are large: three per object at most, and so many different frames in all.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox, Shot
from detector_worker.core.frame import Frame

__all__ = ["add_shot", "best_of", "is_cut", "quality_of", "sharpness_of", "trim_shots"]

_SHOTS_PER_OBJECT: Final = 3
_FRAMES_IN_ALL: Final = 16
_APART_S: Final = 0.15  # pictures nearer in time than this show the same: only the better one is kept
_EDGE_SHARE: Final = 0.004  # so near to an edge, as a share of the picture's width or height, a box counts as cut by it
_CUT_WORTH: Final = 0.4
_UNDETAILED_WORTH: Final = 1e-4  # less than sharpness can make good
_INCOMPLETE_WORTH: Final = 0.5
_HIDDEN_WORTH: Final = 0.5
_FINE_PX, _COARSE_PX = 1, 4
_STEP_RATIO: Final = _FINE_PX / _COARSE_PX  # of the two changes' energies where all edges are steps
_RAMP_RATIO: Final = _STEP_RATIO**2  # and where none is shorter than the coarse distance
_LEAST_SHARPNESS: Final = 0.02
_MOST_PIXELS: Final = 120_000
_RIM: Final = 0.1  # of a box at each side: mostly street, whose sharpness is another


def is_cut(box: BoundingBox, bounds: BoundingBox) -> bool:
    """True if a box reaches the edge of what is looked at, so that the object probably goes on beyond it."""
    margin_x, margin_y = (length * _EDGE_SHARE for length in bounds.wh)
    gap_x = min(box.x1 - bounds.x1, bounds.x2 - box.x2)
    gap_y = min(box.y1 - bounds.y1, bounds.y2 - box.y2)
    return gap_x <= margin_x or gap_y <= margin_y


def quality_of(
    box: BoundingBox,
    confidence: float,
    bounds: BoundingBox,
    *,
    complete: bool,
    detailed: bool = True,
    clear: bool = True,
) -> float:
    """Return how good a picture of an object is, 0 to 1: large, confident, whole, clear, with the wanted parts.

    `add_shot` has the last word, on sharpness. One that is not ``detailed``, since the camera's large picture was not
    there, is only better than none.
    """
    share = min(1.0, box.area / bounds.area)
    whole = (
        (_CUT_WORTH if is_cut(box, bounds) else 1.0)
        * (1.0 if complete else _INCOMPLETE_WORTH)
        * (1.0 if clear else _HIDDEN_WORTH)
    )
    return math.sqrt(share) * confidence * whole * (1.0 if detailed else _UNDETAILED_WORTH)


def sharpness_of(luma: NDArray[np.uint8]) -> float:
    """Return how sharp an object's picture is, at least a little above 0 and at most 1.

    The change of brightness from pixel to pixel is compared with that over a few pixels, along rows and down columns,
    and the worse counts, since motion blurs along one direction only. What is left is independent of contrast and of
    light. Edges that blur makes longer than those few pixels, about 6 of motion, are all the same: hopeless.

    Args:
        luma: The object without its rim, shape (H, W), uint8. Of a large one some rows are left out.
    """
    step = max(1, luma.size // _MOST_PIXELS)
    ratios = []
    for shift_x, shift_y in ((1, 0), (0, 1)):
        fine, coarse = (_change(luma, shift_x * px, shift_y * px, step) for px in (_FINE_PX, _COARSE_PX))
        ratios.append(fine / coarse if coarse else 0.0)
    share = (min(ratios) - _RAMP_RATIO) / (_STEP_RATIO - _RAMP_RATIO)
    return min(1.0, max(_LEAST_SHARPNESS, share))


def _change(luma: NDArray[np.uint8], shift_x: int, shift_y: int, step: int) -> float:
    """Return the mean square of how much the brightness changes over a distance; 0 where the picture is too small."""
    height, width = luma.shape
    first, second = luma[: max(0, height - shift_y) : step, : max(0, width - shift_x)], luma[shift_y::step, shift_x:]
    return cv2.norm(first, second, cv2.NORM_L2SQR) / first.size if first.size else 0.0


def add_shot(shots: list[Shot], new: Shot) -> None:
    """Keep a picture if it is among an object's best; they stay in order, best first.

    Its quality is what `quality_of` says, and is multiplied by its sharpness here, which is looked at only where it
    could be kept.
    """
    same = [shot for shot in shots if abs(shot.frame.time_s - new.frame.time_s) < _APART_S]
    others = [shot for shot in shots if shot not in same]
    rivals = [*same, *others[_SHOTS_PER_OBJECT - 1 :]]
    least = max((shot.quality for shot in rivals), default=-1.0)
    if new.quality <= least:
        return
    new = replace(new, quality=new.quality * sharpness_of(_luma_without_rim(new)))
    if new.quality > least:
        shots[:] = best_of((*others, new))


def best_of(shots: Iterable[Shot]) -> list[Shot]:
    """Return the few that are kept of an object's pictures, best first."""
    return sorted(shots, key=lambda shot: -shot.quality)[:_SHOTS_PER_OBJECT]


def _luma_without_rim(shot: Shot) -> NDArray[np.uint8]:
    box = shot.detections[0].bounding_box
    width, height = (_RIM * length for length in box.wh)
    return shot.frame.luma_of((int(box.x1 + width), int(box.y1 + height), int(box.x2 - width), int(box.y2 - height)))


def trim_shots(shots_by_object: Collection[list[Shot]]) -> None:
    """Call after each frame: lets go of the frame that is missed least, nobody's best or else the oldest."""
    ranks: dict[Frame, int] = {}
    for shots in shots_by_object:
        for rank, shot in enumerate(shots):
            ranks[shot.frame] = min(rank, ranks.get(shot.frame, rank))
    if len(ranks) > _FRAMES_IN_ALL:
        dropped = max(ranks, key=lambda frame: (ranks[frame], -frame.time_s))
        for shots in shots_by_object:
            shots[:] = [shot for shot in shots if shot.frame is not dropped]
