"""The best pictures of an object that may become a visit, so that the visit begins with good ones.

Pictures are held by reference and are large: three per object at most, and so many different frames in all.
"""

import math
from collections.abc import Collection
from typing import Final

from detector_worker.core.entities import BoundingBox, Shot
from detector_worker.core.frame import Frame

__all__ = ["add_shot", "is_cut", "quality_of", "trim_shots"]

_SHOTS_PER_OBJECT: Final = 3
_FRAMES_IN_ALL: Final = 16
_APART_S: Final = 0.15  # pictures nearer in time than this show the same: only the better one is kept
_EDGE_SHARE: Final = 0.004  # so near to an edge, as a share of the picture's width or height, a box counts as cut by it
_CUT_WORTH: Final = 0.4
_BLURRED_WORTH: Final = 0.01
_INCOMPLETE_WORTH: Final = 0.5


def is_cut(box: BoundingBox, bounds: BoundingBox) -> bool:
    """True if a box reaches the edge of what is looked at, so that the object probably goes on beyond it."""
    margin_x, margin_y = (length * _EDGE_SHARE for length in bounds.wh)
    gap_x = min(box.x1 - bounds.x1, bounds.x2 - box.x2)
    gap_y = min(box.y1 - bounds.y1, bounds.y2 - box.y2)
    return gap_x <= margin_x or gap_y <= margin_y


def quality_of(
    box: BoundingBox, confidence: float, bounds: BoundingBox, *, complete: bool, detailed: bool = True
) -> float:
    """Return how good a picture of an object is, 0 to 1: large, confident, whole, with the parts that are wanted.

    One that is not ``detailed``, since the camera's large picture was not there, is only better than none.
    """
    share = min(1.0, box.area / bounds.area)
    whole = (_CUT_WORTH if is_cut(box, bounds) else 1.0) * (1.0 if complete else _INCOMPLETE_WORTH)
    return math.sqrt(share) * confidence * whole * (1.0 if detailed else _BLURRED_WORTH)


def add_shot(shots: list[Shot], new: Shot) -> None:
    """Keep a picture if it is among an object's best; they stay in order, best first."""
    same = [shot for shot in shots if abs(shot.frame.time_s - new.frame.time_s) < _APART_S]
    if all(shot.quality < new.quality for shot in same):
        others = (shot for shot in shots if shot not in same)
        shots[:] = sorted((*others, new), key=lambda shot: -shot.quality)[:_SHOTS_PER_OBJECT]


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
