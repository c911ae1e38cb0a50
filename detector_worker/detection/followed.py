"""One track as an object, where the hot path's arrays end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Self

import numpy as np

from detector_worker.core.entities import BoundingBox, DetectionResult, Shot, Visit
from detector_worker.core.frame import Frame
from detector_worker.detection.appearance import ALIKE, ALIKE_IN_PLACE, NUMBERS, Appearance, likeness
from detector_worker.detection.best_shots import best_of
from detector_worker.detection.sights import Parts, Sight

__all__ = ["Followed"]

_STANDING_IOU: Final = 0.8  # boxes of one place, of an object that stands
_MOVED_SHARE: Final = 0.08  # of a box's width or height
_SETTLED_S: Final = 2.0
_STANDING_S: Final = 1.0  # in one place for so long: it stands
_SAME_PLACE_IOU: Final = 0.75
_SAME_LIGHT_S: Final = 120.0  # for so long the light is taken to be about the same
_LEFT_IOU: Final = 0.7  # with where it stood: it may creep on a little and still be there
_ELSEWHERE: Final = BoundingBox(0, 0, 0, 0)
_LOOKS_KEPT: Final = 3
_HIDDEN: Final = 0.5  # of an object's place behind another box: it cannot be expected to be seen
_NEARER: Final = 0.1  # so much lower, in heights of its box, what stands before an object ends in the picture


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
    stood_at: BoundingBox | None = None  # last
    began_hidden: bool = False  # in part, when it was seen first
    is_hidden: bool = False  # in part, in its latest frame, by something before it
    place: BoundingBox = field(init=False)  # where it came to stand, or is passing
    place_since_s: float = field(init=False)
    is_place_fixed: bool = False
    sure_s: float = field(init=False)  # when it was surely seen last
    left: bool = False  # it drove out of the picture: what enters there is somebody else
    covered_s: float = -math.inf  # when it was last seen to be hidden, since it went out of sight
    obstructed_s: float = -math.inf  # when that was by another object
    bounds: BoundingBox = field(init=False)  # of what is looked at, in its latest frame
    parts: Parts = ()  # the latest, with this track's id, which says whose they are
    part_classes: set[str] = field(default_factory=set)  # of all its frames
    part_places: dict[str, tuple[BoundingBox, bool]] = field(default_factory=dict)
    """Where a part of each class was seen last, and whether that was at the picture's edge."""
    votes: dict[str, float] = field(default_factory=dict)
    """Confidence gathered by each class: a detector calls one vehicle a car in this frame and a truck in the next."""
    inside: int = 0  # the frames in which it was a part of something, less the others
    due_s: float | None = None  # since when its visit has waited for a large picture only
    is_owed: bool = False  # it was lost before its visit began, which it was due: late is better than never
    triggered: bool = False  # it was seen clearly in a frame with a trigger class
    shots: list[Shot] = field(default_factory=list)  # until its visit begins: the best pictures, best first
    visit: Visit | None = None
    is_interrupted: bool = False  # the pipeline of its visit was, by a restart
    looks: tuple[Appearance, ...] = ()  # the newest last: the light changes, and something may have stood before it
    looked_s: float = -math.inf  # when it was looked at last
    was_parted: bool = False  # from its track, which had gone over to another, perhaps when it was seen last already
    is_doubted: bool = False  # what is seen in its place may be another
    unseen_s: float | None = None  # for how long nobody looked, if that is why

    def __post_init__(self) -> None:
        self.place, self.place_since_s, self.sure_s = self.first_box, self.first_s, self.first_s

    @classmethod
    def of_visit(cls, visit: Visit) -> Self:
        """Return the object of a visit as it was seen last, before a restart."""
        followed = cls(visit.track_id, visit.first_s, visit.bounding_box)
        followed.detection = DetectionResult(visit.class_name, visit.confidence, visit.bounding_box)
        followed.votes = {visit.class_name: visit.confidence}
        followed.parts, followed.last_s, followed.sure_s = visit.parts, visit.last_s, visit.last_s
        followed.place_since_s = visit.first_s if visit.stage == "standing" else visit.last_s
        followed.stood_at = None if visit.stage == "arriving" else _ELSEWHERE
        followed.expected, followed.visit = visit.bounding_box, visit
        # Those of another version, which has looks of another length, say nothing.
        whole = len(visit.appearance) % NUMBERS == 0
        followed.looks = tuple(np.array(visit.appearance, np.float32).reshape(-1, NUMBERS)) if whole else ()
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
        """True for what is out of sight and was on its way over the picture's edge, which it had been clear of.

        What stood when it was surely seen last is not, wherever its box seemed to go while something came to hide it.
        """
        return not self.stood and (self.left or (self.cut and self.seen_whole))

    @property
    def stood(self) -> bool:
        """True for what had been in one place for a while when it was surely seen last."""
        return self.sure_s - self.place_since_s >= _STANDING_S

    @property
    def stage(self) -> Literal["arriving", "standing", "leaving"]:
        """How far its stay was when it was surely seen last."""
        if self.stood:
            return "standing"
        has_left = self.stood_at is not None and self.place.iou(self.stood_at) < _LEFT_IOU
        return "leaving" if has_left else "arriving"

    @property
    def stands(self) -> bool:
        """True for what has been in one place for a while, whether it was surely seen there or not."""
        return self.last_s - self.place_since_s >= _STANDING_S

    @property
    def waited_for_since_s(self) -> float:
        """From when on it could have come back into sight, and did not."""
        return max(self.last_s, self.covered_s)

    def is_covered_by(self, box: BoundingBox) -> bool:
        """True for what stood when it was seen last, and a box now hides the place: of something nearer to the camera.

        What is nearer stands lower in the picture; whoever has taken the place itself does not.
        """
        hidden = self.place.shared_area(box) >= _HIDDEN * self.place.area
        return self.stands and hidden and box.y2 > self.place.y2 + _NEARER * (self.place.y2 - self.place.y1)

    def note(self, sight: Sight, now_s: float) -> None:
        """It has been seen again."""
        self.detection, self.parts, self.bounds = sight.seen, sight.parts, sight.bounds
        self.began_hidden |= sight.is_hidden and not self.votes
        self.last_s, self.is_hidden = now_s, sight.is_hidden
        self.inside += 1 if sight.is_inside else -1
        self.votes[sight.seen.class_name] = self.votes.get(sight.seen.class_name, 0.0) + sight.seen.confidence
        for part in sight.parts:
            self.part_classes.add(part.class_name)
            self.part_places[part.class_name] = part.bounding_box, _is_at_edge(part.bounding_box, sight.bounds)
        if sight.is_sure:
            self._note_place(sight)
        if self.visit is not None:
            self.go_on_with(self.visit)

    def is_other_than(self, parts: Parts, bounds: BoundingBox) -> bool:
        """True where a part is clear of the picture's edge after its like had gone over it, as a front that drove out.

        What is seen with these parts is another, though a tracker hands it the number of the one that drives out right
        before it, since their boxes overlap.
        """
        for name, (place, left) in self.part_places.items():
            boxes = [part.bounding_box for part in parts if part.class_name == name] if left else []
            if boxes and all(not box.iou(place) and not _is_at_edge(box, bounds) for box in boxes):
                return True
        return False

    def _note_place(self, sight: Sight) -> None:
        """It was surely seen just now: what is unsure at the picture's edge misleads."""
        stands_s, box = self.last_s - self.place_since_s, sight.seen.bounding_box
        if not sight.is_hidden and _has_moved(self.place, box, sight.bounds):
            self.place, self.place_since_s, self.is_place_fixed = box, self.last_s, False
        elif not sight.is_hidden and not self.is_place_fixed and stands_s >= _SETTLED_S:
            self.place, self.is_place_fixed = box, True  # it had been slowing down yet when it came here
        self.cut, self.sure_s = sight.is_cut, self.last_s
        self.seen_whole |= not self.cut
        if self.is_place_fixed:
            self.stood_at = self.place

    def continues(self, earlier: Self) -> None:
        """It is the object of a lost track without a visit."""
        self.first_s, self.triggered = earlier.first_s, self.triggered or earlier.triggered
        self.shots = best_of((*self.shots, *earlier.shots))

    def begin_visit(self, moment: Shot, record_id: str, camera_id: str) -> Visit:
        """Begin a visit with what a moment shows of it."""
        whole, *parts = moment.detections
        self.visit = Visit(
            record_id=record_id,
            camera_id=camera_id,
            track_id=self.track_id,
            class_name=self.class_name,
            confidence=whole.confidence,
            bounding_box=whole.bounding_box,
            first_s=self.first_s,
            last_s=self.last_s,
            captured_at=moment.frame.captured_at,
            frame_id=moment.frame.frame_id,
            parts=tuple(parts),
            appearance=self.kept_looks(),
        )
        return self.visit

    def go_on_with(self, visit: Visit) -> None:
        """It is this visit's object, which is brought up to date."""
        self.visit = visit
        visit.track_id, visit.class_name, visit.parts = self.track_id, self.class_name, self.parts
        visit.last_s, visit.stage = self.last_s, self.stage
        if not self.is_hidden:
            visit.bounding_box = self.detection.bounding_box
        visit.confidence = max(visit.confidence, self.detection.confidence)

    def remember(self, look: Appearance | None, now_s: float) -> None:
        """It looks like this now; kept with its visit too, for a restart."""
        self.looked_s, self.is_doubted, self.unseen_s = now_s, False, None
        if look is not None:
            self.looks = (*self.looks, look)[-_LOOKS_KEPT:]
            if self.visit is not None:
                self.visit.appearance = self.kept_looks()

    def kept_looks(self) -> tuple[float, ...]:
        """Return how it looked, one look after the other, as it is kept with its visit; empty where that is unknown."""
        return tuple(round(float(one), 4) for look in self.looks for one in look)

    def may_be(self, looks: Sequence[Appearance], first_box: BoundingBox, *, hidden: bool) -> bool:
        """True unless what looks like this, and stood there at first sight, must be another.

        What was seen all the time need only look alike. While nobody looks, who was driving away goes, and who stands
        stays in his very place, where looks are compared more strictly: hardly anything but the light can have changed.
        """
        if self.unseen_s is None or self.stage == "arriving":
            return self._looked_like(looks, ALIKE)
        is_in_place = hidden or first_box.iou(self.place) >= _SAME_PLACE_IOU
        least = ALIKE_IN_PLACE if self.unseen_s <= _SAME_LIGHT_S else ALIKE
        return self.stage == "standing" and is_in_place and self._looked_like(looks, least)

    def _looked_like(self, looks: Sequence[Appearance], least: float) -> bool:
        """True unless it never looked like any of these; of what is unknown nothing can be said."""
        pairs = [likeness(own, other) for own in self.looks for other in looks]
        return not pairs or max(pairs) >= least

    def moment(self, frame: Frame, quality: float = 0.0, *, is_clear: bool = True) -> Shot:
        """Return the group as it was seen last, the object itself first."""
        return Shot(frame, (replace(self.detection, class_name=self.class_name), *self.parts), quality, is_clear)


def _has_moved(place: BoundingBox, box: BoundingBox, bounds: BoundingBox) -> bool:
    """True if a box lies elsewhere; one that has only shrunk or grown at one side stands and is being hidden there.

    What moves, or comes nearer, takes both sides along, but for one that the edge of the picture cuts.
    """
    if box.iou(place) >= _STANDING_IOU:
        return False
    width, height = place.wh
    sides = (
        (box.x1 - place.x1, box.x2 - place.x2, width, box.x1 <= bounds.x1 or box.x2 >= bounds.x2),
        (box.y1 - place.y1, box.y2 - place.y2, height, box.y1 <= bounds.y1 or box.y2 >= bounds.y2),
    )
    return any(
        (max if is_cut else min)(abs(first), abs(second)) > _MOVED_SHARE * size for first, second, size, is_cut in sides
    )


def _is_at_edge(part: BoundingBox, bounds: BoundingBox) -> bool:
    """True if a part is so near to the edge that it will not be seen again once it has gone on over it."""
    reach = min(part.wh) / 2
    return (
        min(part.x1 - bounds.x1, bounds.x2 - part.x2) <= reach or min(part.y1 - bounds.y1, bounds.y2 - part.y2) <= reach
    )
