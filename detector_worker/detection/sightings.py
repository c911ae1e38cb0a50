"""One frame's tracked detections as objects: where the hot path's arrays end."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox, DetectionResult, Detections, Shot, Visit
from detector_worker.core.frame import Frame
from detector_worker.detection.grouping import find_wholes
from detector_worker.detection.tracking_manager import TrackingManager

__all__ = ["Followed", "Sighting", "sightings_of"]


@dataclass(frozen=True, slots=True)
class Sighting:
    """One track in one frame, with its parts."""

    track_id: int
    class_name: str
    """By the vote of all of the track's detections."""
    confidence: float
    box: BoundingBox
    predicted: BoundingBox
    """Where the track was expected in this frame."""
    growth_per_s: float
    """Of the box, relative to its size."""
    inside: bool
    """It lies in a larger object of another class, as a part of it."""
    parts: tuple[DetectionResult, ...]
    """With the whole's track id, which says whose they are."""

    @property
    def classes(self) -> set[str]:
        """The group's class names, case-folded."""
        return {self.class_name.casefold(), *(part.class_name.casefold() for part in self.parts)}

    def group(self, timestamp: float) -> tuple[DetectionResult, ...]:
        """Return the object and its parts; ``timestamp`` is the capture's, seconds since 1970."""
        whole = DetectionResult(self.class_name, self.confidence, self.box, self.track_id, timestamp)
        return (whole, *self.parts)


@dataclass(slots=True)
class Followed:
    """One track, and what has been seen of its group so far."""

    first_s: float
    first_box: BoundingBox
    sighting: Sighting
    """The latest."""
    last_s: float
    seen: int = 0
    inside: int = 0
    """In so many of its frames it was a part of something."""
    part_classes: set[str] = field(default_factory=set)
    """Case-folded."""
    triggered: bool = False
    """One of its frames had a trigger class."""
    visit: Visit | None = None
    appearance: NDArray[np.float32] | None = None

    @property
    def is_part(self) -> bool:
        """True for what has been a part for the greater part of its life."""
        return self.inside * 2 > self.seen

    def moment(self, frame: Frame) -> Shot:
        """Return it as it was seen last, in a picture that was not chosen for its quality."""
        return Shot(frame, self.sighting.group(frame.captured_at), 0.0)

    def note(self, sighting: Sighting, now_s: float) -> None:
        """It has been seen again."""
        self.sighting, self.last_s = sighting, now_s
        self.seen += 1
        self.inside += sighting.inside
        self.part_classes.update(part.class_name.casefold() for part in sighting.parts)
        if self.visit is not None:
            self.visit.bounding_box, self.visit.last_s, self.visit.parts = sighting.box, now_s, sighting.parts
            self.visit.class_name = sighting.class_name
            self.visit.confidence = max(self.visit.confidence, sighting.confidence)


def sightings_of(
    tracked: Detections,
    tracks: TrackingManager,
    *,
    can_be_part: Callable[[int, str], bool],
    min_confidence: float,
    timestamp: float,
) -> list[Sighting]:
    """Make the objects of a frame.

    Args:
        tracked: What `TrackingManager.update_tracks` returned last.
        tracks: That tracker.
        can_be_part: Whether a track id (-1: none) with a class name may belong to another object.
        min_confidence: Less confident parts are left out.
        timestamp: Of the capture, seconds since 1970.

    Returns:
        One for each detection that belongs to a track, in the order of the detections.
    """
    results = list(tracked.results(timestamp))
    ids = [-1 if result.track_id is None else result.track_id for result in results]
    allowed = [can_be_part(track_id, result.class_name) for track_id, result in zip(ids, results, strict=True)]
    wholes: list[int] = find_wholes(tracked, np.array(allowed, np.bool_)).tolist()
    parts: dict[int, list[DetectionResult]] = {}
    for part, whole in zip(results, wholes, strict=True):
        if whole >= 0 and part.confidence >= min_confidence:
            parts.setdefault(whole, []).append(replace(part, track_id=ids[whole]))
    rows = [row for row, track_id in enumerate(ids) if track_id >= 0]
    facts = tracks.facts(np.array([ids[row] for row in rows], np.int64))
    return [
        Sighting(
            track_id=ids[row],
            class_name=tracked.class_names[fact.class_id],
            confidence=results[row].confidence,
            box=results[row].bounding_box,
            predicted=fact.predicted,
            growth_per_s=fact.growth_per_s,
            inside=wholes[row] >= 0,
            parts=tuple(parts.get(row, ())),
        )
        for row, fact in zip(rows, facts, strict=True)
    ]
