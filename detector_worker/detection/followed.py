"""One track as an object, where the hot path's arrays end, and whether a new object is an old one come back."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Self

import numpy as np

from detector_worker.core.entities import BoundingBox, DetectionResult, Shot, Visit
from detector_worker.core.frame import Frame
from detector_worker.detection.appearance import Histogram, likeness

__all__ = ["Followed", "Parts", "find_returned"]

_NEAR_SIZES: Final = 1.0  # distance of the centres, in sizes (square root of the area) of the smaller box
_SIMILAR_AREA: Final = 0.4
_STANDING_IOU: Final = 0.8  # boxes of one place, of an object that stands
_STANDING_S: Final = 1.0  # in one place for so long: it stands
_ALIKE: Final = 0.85  # measured on street footage: see the folder's README

Parts = tuple[DetectionResult, ...]


@dataclass(slots=True, eq=False)
class Followed:
    """One track, and what has been seen of it and of its parts."""

    track_id: int
    first_s: float
    first_box: BoundingBox
    last_s: float = field(init=False)
    detection: DetectionResult = field(init=False)  # the latest, as the detector called it
    expected: BoundingBox = field(init=False)  # where it should have been in the newest frame, seen or not
    growth_per_s: float = 0.0  # of the box, relative to its size
    cut: bool = False  # by the edge of the picture, when it was surely seen last
    seen_whole: bool = False  # ever
    place: BoundingBox = field(init=False)  # where it came to stand, or is passing
    place_since_s: float = field(init=False)
    sure_s: float = field(init=False)  # when it was surely seen last
    left: bool = False  # it drove out of the picture: what enters there is somebody else
    parts: Parts = ()  # the latest, with this track's id, which says whose they are
    part_classes: set[str] = field(default_factory=set)  # of all its frames
    part_places: dict[str, tuple[BoundingBox, bool]] = field(default_factory=dict)
    """Where a part of each class was seen last, and whether that was at the picture's edge."""
    votes: dict[str, float] = field(default_factory=dict)
    """Confidence gathered by each class: a detector calls one vehicle a car in this frame and a truck in the next."""
    inside: int = 0  # the frames in which it was a part of something, less the others
    due_s: float | None = None  # since when its visit has waited for a large picture only
    triggered: bool = False  # it was seen clearly in a frame with a trigger class
    shots: list[Shot] = field(default_factory=list)  # until its visit begins: the best pictures, best first
    visit: Visit | None = None
    appearance: Histogram | None = None  # known when its visit begins

    def __post_init__(self) -> None:
        self.place, self.place_since_s, self.sure_s = self.first_box, self.first_s, self.first_s

    @classmethod
    def of_visit(cls, visit: Visit) -> Self:
        """Return the object of a visit as it was seen last, before a restart."""
        followed = cls(visit.track_id, visit.first_s, visit.bounding_box)
        seen = DetectionResult(visit.class_name, visit.confidence, visit.bounding_box)
        followed.note(seen, visit.parts, visit.last_s, inside=False)
        followed.expected, followed.visit = visit.bounding_box, visit
        followed.appearance = np.array(visit.appearance, np.float32) if visit.appearance else None
        return followed

    @property
    def class_name(self) -> str:
        """The class that its detections speak for most."""
        return max(self.votes, key=self.votes.__getitem__)

    @property
    def is_part(self) -> bool:
        """True for what has been a part for the greater part of its life."""
        return self.inside > 0

    @property
    def is_leaving(self) -> bool:
        """True for what is out of sight and was on its way over the picture's edge, which it had been clear of."""
        return self.left or (self.cut and self.seen_whole and self.sure_s - self.place_since_s < _STANDING_S)

    def note(self, detection: DetectionResult, parts: Parts, now_s: float, *, inside: bool) -> None:
        """It has been seen again, ``inside`` another object or for itself."""
        self.detection, self.parts, self.last_s = detection, parts, now_s
        self.inside += 1 if inside else -1
        self.votes[detection.class_name] = self.votes.get(detection.class_name, 0.0) + detection.confidence
        self.part_classes.update(part.class_name for part in parts)
        if self.visit is not None:
            self.go_on_with(self.visit)

    def is_another(self, parts: Parts, bounds: BoundingBox) -> bool:
        """True where a part is clear of the picture's edge after its like had gone over it, as a front that drove out.

        A tracker hands the number of a vehicle that drives out to the one right behind it: their boxes overlap.
        """
        for name, (place, left) in self.part_places.items():
            boxes = [part.bounding_box for part in parts if part.class_name == name] if left else []
            if boxes and all(not box.iou(place) and not _is_at_edge(box, bounds) for box in boxes):
                return True
        return False

    def note_parts(self, bounds: BoundingBox) -> None:
        """Its parts were seen just now, at these places."""
        for part in self.parts:
            self.part_places[part.class_name] = part.bounding_box, _is_at_edge(part.bounding_box, bounds)

    def note_place(self, *, cut: bool) -> None:
        """It was surely seen just now; ``cut`` by the edge of the picture. What is unsure at the edge misleads."""
        if self.detection.bounding_box.iou(self.place) < _STANDING_IOU:
            self.place, self.place_since_s = self.detection.bounding_box, self.last_s
        self.cut, self.sure_s = cut, self.last_s
        self.seen_whole |= not cut

    def go_on_with(self, visit: Visit) -> None:
        """It is this visit's object, which is brought up to date."""
        self.visit = visit
        visit.track_id, visit.class_name, visit.parts = self.track_id, self.class_name, self.parts
        visit.bounding_box, visit.last_s = self.detection.bounding_box, self.last_s
        visit.confidence = max(visit.confidence, self.detection.confidence)

    def moment(self, frame: Frame, quality: float = 0.0) -> Shot:
        """Return the group as it was seen last, the object itself first."""
        return Shot(frame, (replace(self.detection, class_name=self.class_name), *self.parts), quality)


def _is_at_edge(part: BoundingBox, bounds: BoundingBox) -> bool:
    """True if a part is so near to the edge that it will not be seen again once it has gone on over it."""
    reach = min(part.wh) / 2
    return (
        min(part.x1 - bounds.x1, bounds.x2 - part.x2) <= reach or min(part.y1 - bounds.y1, bounds.y2 - part.y2) <= reach
    )


def find_returned(others: Iterable[Followed], arrival: Followed, *, reentry_s: float) -> Followed | None:
    """Return which of the others an object is, come back; None if it is a new one.

    It is one of the same class that was last seen at most ``reentry_s`` before it, whose last place, or the one where
    it would have gone, is near the object's first, and that looked alike. Of several, the nearest.
    """
    possible = [
        other
        for other in others
        if 0 < arrival.first_s - other.last_s <= reentry_s
        and not other.is_leaving
        and other.class_name.casefold() == arrival.class_name.casefold()
        and _distance(arrival, other) <= _NEAR_SIZES
        and _may_look_alike(arrival.appearance, other.appearance)
    ]
    return min(possible, key=lambda other: _distance(arrival, other), default=None)


def _distance(arrival: Followed, other: Followed) -> float:
    """Return the distance in sizes to the nearest place of about the arrival's own area; infinite without one."""
    box, distances = arrival.first_box, [math.inf]
    for place in (other.detection.bounding_box, other.expected):
        small, large = sorted((max(box.area, 1.0), max(place.area, 1.0)))
        if small / large >= _SIMILAR_AREA:
            gap = box.x1 + box.x2 - place.x1 - place.x2, box.y1 + box.y2 - place.y1 - place.y2
            distances.append(math.hypot(*gap) / 2 / math.sqrt(small))
    return min(distances)


def _may_look_alike(first: Histogram | None, second: Histogram | None) -> bool:
    return first is None or second is None or likeness(first, second) >= _ALIKE
