"""What one frame shows of each object: where the hot path's arrays end."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox, DetectionResult, Detections
from detector_worker.detection.best_shots import is_cut
from detector_worker.detection.grouping import find_hidden, find_wholes

__all__ = ["Parts", "Sight", "sights_in"]

Parts = tuple[DetectionResult, ...]


@dataclass(frozen=True, slots=True)
class Sight:
    """One tracked object in one frame."""

    track_id: int
    seen: DetectionResult
    """As the detector called it."""
    parts: Parts
    """What was surely seen in it, with its own track id, which says whose they are."""
    bounds: BoundingBox
    """Of what is looked at."""
    is_sure: bool
    """As confident as is asked of what begins an object."""
    is_inside: bool
    """It is a part of another."""
    is_hidden: bool
    """Something covers a part of it."""

    @property
    def is_cut(self) -> bool:
        """It reaches over the edge of what is looked at."""
        return is_cut(self.seen.bounding_box, self.bounds)


def sights_in(
    tracked: Detections,
    *,
    can_be_part: NDArray[np.bool_],
    least_confidence: float,
    bounds: BoundingBox,
    captured_at: float,
) -> list[Sight]:
    """Return what a frame's detections, shape (N,) each, show of the objects that have tracks, in the tracks' order.

    Not in the detector's: of two like objects, the older track is asked first whether it is one that has come back.
    """
    results = list(tracked.results(captured_at))
    wholes: list[int] = find_wholes(tracked, can_be_part).tolist()
    hidden: list[bool] = find_hidden(tracked, least_confidence).tolist()
    parts: list[Parts] = [() for _ in results]
    for result, whole in zip(results, wholes, strict=True):
        if whole >= 0 and result.confidence >= least_confidence:
            parts[whole] += (replace(result, track_id=results[whole].track_id),)
    sights = [
        Sight(
            track_id=result.track_id,
            seen=result,
            parts=own_parts,
            bounds=bounds,
            is_sure=result.confidence >= least_confidence,
            is_inside=whole >= 0,
            is_hidden=is_hidden,
        )
        for result, whole, own_parts, is_hidden in zip(results, wholes, parts, hidden, strict=True)
        if result.track_id is not None
    ]
    return sorted(sights, key=lambda sight: sight.track_id)
