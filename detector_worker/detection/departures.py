"""Objects out of sight that may come back, and whether a new object is one of them."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from detector_worker.core.entities import BoundingBox
from detector_worker.core.outbox import SavedVisit
from detector_worker.detection.followed import Followed

__all__ = ["Departures", "find_returned"]

_NEAR_SIZES: Final = 1.0  # distance of the centres, in sizes (square root of the area) of the smaller box
_SIMILAR_AREA: Final = 0.4
_TAKEN: Final = 0.5  # of a place in the box of another, who is there now
_HIDDEN_S: Final = 120.0  # for so long what is no object itself, such as people, may hide one
_LONGEST_ABSENCE_S: Final = 1800.0  # of worker or camera, after which whoever stands there counts as somebody else


class Departures:
    """Those of one lane: with visits that have not ended, or that may yet begin late. Times are the lane's clock."""

    def __init__(self, *, reentry_s: float) -> None:
        """``reentry_s``: for how long each is waited for while it could be seen."""
        self._reentry_s = reentry_s
        self._waiting: list[Followed] = []

    def __iter__(self) -> Iterator[Followed]:
        return iter(self._waiting)

    def __contains__(self, followed: Followed) -> bool:
        return followed in self._waiting

    def add(self, followed: Followed) -> None:
        """It has gone out of sight."""
        self._waiting.append(followed)

    def remove(self, followed: Followed) -> None:
        """It has come back."""
        self._waiting.remove(followed)

    def clear(self) -> None:
        """Wait for none any longer."""
        self._waiting.clear()

    def take_over(self, saved: Sequence[SavedVisit], *, now_s: float, now_utc_s: float) -> None:
        """Wait for the objects of visits of before a restart, each as if it had just gone out of sight.

        ``now_s`` and ``now_utc_s`` (seconds since 1970) are the same moment.
        """
        for entry in saved:
            last_s = now_s - max(0.0, now_utc_s - entry.last_seen_at)
            visit = replace(entry.visit, first_s=last_s - entry.visit.duration_s, last_s=last_s, shots=())
            followed = Followed.of_visit(visit)
            followed.is_interrupted = not entry.is_complete
            self._waiting.append(followed)

    def resume(self, now_s: float) -> None:
        """Nobody looked for a while: all are waited for from now on, but for those that went too long ago."""
        for one in self._waiting:
            if now_s - one.last_s <= _LONGEST_ABSENCE_S:
                one.covered_s, one.unseen_s = now_s, now_s - one.last_s

    def note_hidden(
        self, in_sight: Sequence[Followed], now_s: float, *, shows_something: Callable[[BoundingBox], bool]
    ) -> None:
        """See which of them cannot be expected to be seen in this frame.

        ``shows_something`` tells whether a place looks different from the empty ground.
        """
        boxes = [other.detection.bounding_box for other in in_sight]
        with_visits = [other.detection.bounding_box for other in in_sight if other.visit is not None]
        for old in self._waiting:
            if any(old.is_covered_by(box) for box in boxes):
                old.covered_s = old.obstructed_s = now_s
            elif now_s - max(old.last_s, old.obstructed_s) <= _HIDDEN_S and old.stood:
                is_taken = any(old.place.shared_area(box) >= _TAKEN * old.place.area for box in with_visits)
                if not is_taken and shows_something(old.place):
                    old.covered_s = now_s

    def let_go(self, now_s: float, young: Sequence[Followed]) -> list[Followed]:
        """Return those that stayed away, unless one of the ``young``, not stable yet, may be it; they are forgotten."""
        expired = [
            old
            for old in self._waiting
            if now_s - old.waited_for_since_s > self._reentry_s
            and not any(find_returned((old,), new, reentry_s=self._reentry_s) for new in young)
        ]
        self._waiting = [old for old in self._waiting if old not in expired]
        return expired


def find_returned(others: Iterable[Followed], arrival: Followed, *, reentry_s: float) -> Followed | None:
    """Return which of the others an object is, come back; None if it is a new one.

    It is one of the same class that could have been seen again for at most ``reentry_s``, whose last place, or the one
    where it would have gone, is near the object's first, and that looked alike. Of several, the nearest.
    """
    possible = [
        other
        for other in others
        if (other.last_s < arrival.first_s or (other.was_parted and other.last_s == arrival.first_s))
        and arrival.first_s <= other.waited_for_since_s + reentry_s
        and not other.is_leaving
        and other.class_name.casefold() == arrival.class_name.casefold()
        and _distance(arrival, other) <= _NEAR_SIZES
        and not other.is_other_than(arrival.parts, arrival.bounds)
        and other.may_be(arrival.looks, arrival.first_box, hidden=arrival.began_hidden)
    ]
    return min(possible, key=lambda other: _distance(arrival, other), default=None)


def _distance(arrival: Followed, other: Followed) -> float:
    """Return the distance in sizes to the nearest place of about the arrival's own area; infinite without one."""
    box, distances = arrival.first_box, [math.inf]
    # While it is being hidden its box shrinks: the place where it was surely seen last counts as well.
    for place in (other.detection.bounding_box, other.expected, other.place):
        small, large = sorted((max(box.area, 1.0), max(place.area, 1.0)))
        if small / large >= _SIMILAR_AREA:
            gap = box.x1 + box.x2 - place.x1 - place.x2, box.y1 + box.y2 - place.y1 - place.y2
            distances.append(math.hypot(*gap) / 2 / math.sqrt(small))
    return min(distances)
