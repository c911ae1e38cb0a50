"""Visits whose object is out of sight: is a new track one of them, come back?"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox, Visit
from detector_worker.detection.appearance import likeness

__all__ = ["Departed", "find_returned"]

_NEAR_SIZES: Final = 1.0
"""Distance of the centres, in sizes (square root of the area) of the smaller box."""
_SIMILAR_AREA: Final = 0.4
_ALIKE: Final = 0.85
"""Measured on street footage: see the folder's README."""


@dataclass(frozen=True, slots=True)
class Departed:
    """A visit whose track is gone."""

    visit: Visit
    expected: BoundingBox
    """Where its motion would have brought it."""
    appearance: NDArray[np.float32] | None
    """None: unknown, as after a restart; place, class and time must do."""
    left: bool = False
    """It drove out of the picture: what enters there is somebody else."""


def find_returned(
    departed: Iterable[Departed],
    *,
    class_name: str,
    first_box: BoundingBox,
    first_s: float,
    reentry_s: float,
    appearance: NDArray[np.float32] | None,
) -> Departed | None:
    """Return the visit that an object continues, or None if it is a new one.

    It continues one of the same class that was last seen at most ``reentry_s`` before, whose last place, or the one
    where it would have gone, is near the object's first, and that looked alike. Of several, the nearest.

    Args:
        departed: Visits out of sight.
        class_name: Of the object.
        first_box: The object's first detection, pixels.
        first_s: Of that detection.
        reentry_s: Longest absence, seconds.
        appearance: Of the object; None: unknown.
    """
    near = sorted(
        (
            (distance, entry)
            for entry in departed
            if not entry.left
            and entry.visit.class_name.casefold() == class_name.casefold()
            and 0 < first_s - entry.visit.last_s <= reentry_s
            for distance in (_distance(first_box, entry.visit.bounding_box, entry.expected),)
            if distance <= _NEAR_SIZES
        ),
        key=lambda pair: pair[0],
    )
    return next((entry for _, entry in near if _may_look_alike(appearance, entry.appearance)), None)


def _may_look_alike(first: NDArray[np.float32] | None, second: NDArray[np.float32] | None) -> bool:
    return first is None or second is None or likeness(first, second) >= _ALIKE


def _distance(box: BoundingBox, *places: BoundingBox) -> float:
    """Return the distance to the nearest place of about the box's own area, in sizes; infinite without one."""
    distances = [np.inf]
    for place in places:
        small, large = sorted((max(box.area, 1.0), max(place.area, 1.0)))
        if small / large >= _SIMILAR_AREA:
            gap_x = (box.x1 + box.x2 - place.x1 - place.x2) / 2
            gap_y = (box.y1 + box.y2 - place.y1 - place.y2) / 2
            distances.append(float(np.hypot(gap_x, gap_y) / small**0.5))
    return min(distances)
