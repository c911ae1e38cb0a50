"""Whether what carries a track's number is still the object that it was."""

import math
from collections.abc import Iterable
from typing import Final

from detector_worker.core.entities import DetectionResult, Shot
from detector_worker.core.frame import Frame
from detector_worker.detection.appearance import appearance_of
from detector_worker.detection.followed import Followed
from detector_worker.detection.sights import Sight

__all__ = ["Pace", "doubt", "doubt_beside", "has_gone", "look_at_best_shot"]

_LOOK_AGAIN_S: Final = 10.0  # so often an object's appearance is brought up to date
_CONFUSED_IOU: Final = 0.3
_BESIDE_IOU: Final = 0.5
_GAP_PACES: Final = 3.0  # a gap is so many times as long as usual: a camera may give a picture in five seconds only
_PACE_WEIGHT: Final = 0.2


class Pace:
    """Tells when nobody looked for a while, by the time between the frames of a lane."""

    def __init__(self, *, longest_blink_s: float) -> None:
        """What is not longer than ``longest_blink_s`` is no gap."""
        self._longest_blink_s = longest_blink_s
        self._last_s: float | None = None
        self._usual_s: float | None = None

    def gap_s(self, time_s: float) -> float:
        """Take a frame's time; returns the seconds since the one before if that is a gap, else 0.

        Before the first frame nobody looked either, which is an infinite gap.
        """
        if self._last_s is None:
            self._last_s = time_s
            return math.inf
        elapsed_s, self._last_s = max(0.0, time_s - self._last_s), time_s
        usual_s = elapsed_s if self._usual_s is None else self._usual_s
        longest_s = _GAP_PACES * usual_s
        self._usual_s = usual_s + _PACE_WEIGHT * (min(elapsed_s, longest_s) - usual_s)
        return elapsed_s if elapsed_s > max(self._longest_blink_s, longest_s) else 0.0


def doubt(followed: Iterable[Followed], unseen_s: float) -> None:
    """Nobody looked for a while: what is seen in the places of those that have visits may be others."""
    for one in followed:
        if one.visit is not None:
            one.is_doubted, one.unseen_s = True, unseen_s


def doubt_beside(newcomer: DetectionResult, followed: Iterable[Followed]) -> None:
    """Of two like objects that come out of one box, the tracker may have given the number to the wrong one."""
    for one in followed:
        if one.visit is not None and one.detection.class_name == newcomer.class_name:
            one.is_doubted |= one.detection.bounding_box.iou(newcomer.bounding_box) >= _CONFUSED_IOU


def look_at_best_shot(followed: Followed, now_s: float) -> None:
    """Remember how an object looks in the best of its pictures that show it clearly, unless that is known."""
    if followed.looks:
        return
    if (clear := next((shot for shot in followed.shots if shot.is_clear), None)) is not None:
        followed.remember(appearance_of(clear), now_s)


def has_gone(followed: Followed, sight: Sight, frame: Frame, now_s: float) -> bool:
    """True if a sight shows another than the object with the visit; else what it looks like now is remembered."""
    return followed.is_other_than(sight.parts, sight.bounds) or _looks_different(followed, sight, frame, now_s)


def _looks_different(followed: Followed, sight: Sight, frame: Frame, now_s: float) -> bool:
    """True if an object that is doubted does not look like itself.

    Who was seen all the time is believed, and how it looks is brought up to date: the light changes.
    """
    # Who drives off is seen beside his place first: a tracker that loses one who is hidden may take up another.
    followed.is_doubted |= (
        followed.stood and sight.is_sure and followed.place.iou(sight.seen.bounding_box) < _BESIDE_IOU
    )
    is_due = followed.is_doubted or now_s - followed.looked_s >= _LOOK_AGAIN_S
    if not is_due or not sight.is_sure or sight.is_hidden:
        return False
    look = appearance_of(Shot(frame, (sight.seen,), 0.0))
    looks = [] if look is None else [look]
    if followed.is_doubted and not followed.may_be(looks, sight.seen.bounding_box, hidden=False):
        return True
    followed.remember(look, now_s)
    return False
