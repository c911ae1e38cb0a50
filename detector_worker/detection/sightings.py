"""One frame's tracked detections as objects: where the hot path's arrays end."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detector_worker.core.entities import BoundingBox, DetectionResult, Detections
from detector_worker.detection.grouping import find_wholes
from detector_worker.detection.tracking_manager import TrackingManager

__all__ = ["Sighting", "sightings_of"]


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

    def group(self, timestamp: float) -> tuple[DetectionResult, ...]:
        """Return the object and its parts; ``timestamp`` is the capture's, seconds since 1970."""
        whole = DetectionResult(self.class_name, self.confidence, self.box, self.track_id, timestamp)
        return (whole, *self.parts)


def sightings_of(
    tracked: Detections, tracks: TrackingManager, *, can_be_part: Callable[[int, str], bool], timestamp: float
) -> list[Sighting]:
    """Make the objects of a frame.

    Args:
        tracked: What `TrackingManager.update_tracks` returned last.
        tracks: That tracker.
        can_be_part: Whether a track id (-1: none) with a class name may belong to another object.
        timestamp: Of the capture, seconds since 1970.

    Returns:
        One for each detection that belongs to a track, in the order of the detections.
    """
    results = list(tracked.results(timestamp))
    ids = [-1 if result.track_id is None else result.track_id for result in results]
    allowed = [can_be_part(track_id, result.class_name) for track_id, result in zip(ids, results, strict=True)]
    wholes: list[int] = find_wholes(tracked, np.array(allowed, np.bool_)).tolist()
    parts: dict[int, list[DetectionResult]] = {}
    for row, whole in enumerate(wholes):
        if whole >= 0:
            part = results[row]
            owned = DetectionResult(part.class_name, part.confidence, part.bounding_box, ids[whole], timestamp)
            parts.setdefault(whole, []).append(owned)
    found = []
    for row, result in enumerate(results):
        if ids[row] < 0:
            continue
        track = tracks.track(ids[row])
        found.append(
            Sighting(
                track_id=ids[row],
                class_name=tracked.class_names[track.class_id],
                confidence=result.confidence,
                box=result.bounding_box,
                predicted=track.predicted,
                growth_per_s=track.growth_per_s,
                inside=wholes[row] >= 0,
                parts=tuple(parts.get(row, ())),
            )
        )
    return found
