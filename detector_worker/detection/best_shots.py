"""The best pictures of each object that may become a visit, so that a visit begins with good ones.

Pictures are held by reference and are large: three per object at most, and so many different frames in all.
"""

import math
from collections.abc import Callable
from typing import Final

from detector_worker.core.entities import BoundingBox, DetectionResult, Shot
from detector_worker.core.frame import Frame

__all__ = ["BestShots", "is_cut", "quality_of"]

SHOTS_PER_OBJECT: Final = 3
_FRAMES_IN_ALL: Final = 16
_APART_S: Final = 0.15
"""Pictures nearer in time than this show the same: only the better one is kept."""
_EDGE_SHARE: Final = 0.004
"""So near to an edge, as a share of the picture's width or height, a box counts as cut by it."""
_CUT_WORTH: Final = 0.4
_INCOMPLETE_WORTH: Final = 0.5


def is_cut(box: BoundingBox, bounds: BoundingBox) -> bool:
    """True if a box reaches the edge of what is looked at, so that the object probably goes on beyond it."""
    width, height = bounds.wh
    margin_x, margin_y = width * _EDGE_SHARE, height * _EDGE_SHARE
    return (
        box.x1 - bounds.x1 <= margin_x
        or box.y1 - bounds.y1 <= margin_y
        or bounds.x2 - box.x2 <= margin_x
        or bounds.y2 - box.y2 <= margin_y
    )


def quality_of(box: BoundingBox, confidence: float, bounds: BoundingBox, *, complete: bool) -> float:
    """Return how good a picture of an object is, 0 to 1: large, confident, whole, with the parts that are wanted."""
    share = min(1.0, box.area / bounds.area)
    cut = _CUT_WORTH if is_cut(box, bounds) else 1.0
    return math.sqrt(share) * confidence * cut * (1.0 if complete else _INCOMPLETE_WORTH)


class BestShots:
    """Keeps the best few pictures of each track of one lane."""

    def __init__(self) -> None:
        self._shots: dict[int, list[Shot]] = {}

    def offer(
        self, track_id: int, frame: Frame, quality: float, describe: Callable[[], tuple[DetectionResult, ...]]
    ) -> None:
        """Keep a picture if it is among the track's best.

        Args:
            track_id: Whose picture.
            frame: The picture.
            quality: As `quality_of` says.
            describe: Makes the group's detections, the whole object first; called only if the picture is kept.
        """
        shots = self._shots.get(track_id, [])
        same = [shot for shot in shots if abs(shot.frame.time_s - frame.time_s) < _APART_S]
        if any(shot.quality >= quality for shot in same):
            return
        others = [shot for shot in shots if shot not in same]
        if len(others) == SHOTS_PER_OBJECT and others[-1].quality >= quality:
            return
        best_first = sorted((*others, Shot(frame, describe(), quality)), key=lambda shot: -shot.quality)
        self._shots[track_id] = best_first[:SHOTS_PER_OBJECT]

    def of(self, track_id: int) -> tuple[Shot, ...]:
        """Return a track's pictures, best first; may be none."""
        return tuple(self._shots.get(track_id, ()))

    def forget(self, track_id: int) -> None:
        """Let go of a track's pictures."""
        self._shots.pop(track_id, None)

    def trim(self) -> None:
        """Call after each frame: lets go of the frame that is missed least, nobody's best or else the oldest."""
        ranks: dict[int, int] = {}
        frames: dict[int, Frame] = {}
        for shots in self._shots.values():
            for rank, shot in enumerate(shots):
                key = id(shot.frame)
                frames[key] = shot.frame
                ranks[key] = min(rank, ranks.get(key, rank))
        if len(frames) <= _FRAMES_IN_ALL:
            return
        dropped = max(frames, key=lambda key: (ranks[key], -frames[key].time_s))
        for track_id, shots in self._shots.items():
            self._shots[track_id] = [shot for shot in shots if id(shot.frame) != dropped]
