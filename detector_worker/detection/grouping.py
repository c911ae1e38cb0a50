"""Objects that belong together, by geometry: a plate or a front inside its car.

Whether a class is a part at all is learned, since class names say nothing: a front is inside a car nearly
always, while a car that stops before a bus has been seen on its own, or other cars have.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import Detections
from detector_worker.detection.box_math import area, containment_matrix

__all__ = ["GroupRules", "PartHabits", "find_wholes"]

_INSIDE: Final = 0.8
"""This share of a part lies in its whole."""
_LARGEST_PART: Final = 0.6
"""A part has at most this share of its whole's area; what is about as large is the same object, seen twice."""
_SAME_CONTAINMENT: Final = 0.05
"""Wholes that contain a part equally well, but for this, are told apart by their size."""


def find_wholes(detections: Detections, can_be_part: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return for each detection the row of the larger object of another class that contains it.

    Each part has one whole: the best containing, among equals the smallest. A whole is never itself a part: what
    lies in a part belongs to the part's whole.

    Args:
        detections: Of one frame, N of them.
        can_be_part: Which may belong to another at all, shape (N,).

    Returns:
        Row of the whole, or -1 where a detection stands for itself: shape (N,).
    """
    count = len(detections)
    whole = np.full(count, -1, np.intp)
    if count < 2 or (detections.class_id == detections.class_id[0]).all():
        return whole
    xyxy = detections.xyxy.astype(np.float64)
    size = area(xyxy)
    contained = containment_matrix(xyxy, xyxy)
    other_class = detections.class_id[:, None] != detections.class_id[None]
    possible = (
        can_be_part[:, None] & other_class & (contained >= _INSIDE) & (size[:, None] <= _LARGEST_PART * size[None])
    )
    best = np.where(possible, contained, 0.0).max(axis=1, keepdims=True)
    smallest = np.where(possible & (contained >= best - _SAME_CONTAINMENT), size[None], np.inf)
    found = possible.any(axis=1)
    whole[found] = smallest[found].argmin(axis=1)
    return _outermost(whole)


def _outermost(whole: NDArray[np.intp]) -> NDArray[np.intp]:
    """Replace wholes that are parts themselves by theirs; ends, since each whole is larger than its part."""
    while True:
        above = np.where(whole >= 0, whole[whole], -1)
        if not (above >= 0).any():
            return whole
        whole = np.where(above >= 0, above, whole)


class GroupRules:
    """Which groups become visits, by the archive's classes; names count without regard to case."""

    def __init__(self, *, expected: Iterable[str], required: Iterable[str], trigger: Iterable[str]) -> None:
        self._expected = frozenset(name.casefold() for name in expected)
        self._required = frozenset(name.casefold() for name in required)
        self._trigger = frozenset(name.casefold() for name in trigger)

    def is_complete(self, classes: AbstractSet[str]) -> bool:
        """True if a group with these classes, case-folded, has all that are required."""
        return self._required <= classes

    def is_wanted(self, classes: AbstractSet[str]) -> bool:
        """True if it also has one of the expected classes, where any are named."""
        return self.is_complete(classes) and (not self._expected or not self._expected.isdisjoint(classes))

    def is_triggered(self, class_names: Iterable[str]) -> bool:
        """True if a frame with these classes may begin visits."""
        return not self._trigger or any(name.casefold() in self._trigger for name in class_names)


class PartHabits:
    """Which classes of this lane are parts: those of whose objects most have lived inside others."""

    def __init__(self) -> None:
        self._inside: dict[str, int] = {}
        """Class name to the objects that were parts, less those that were not."""

    def note_object(self, class_name: str, *, inside: bool) -> None:
        """Tell what one object has been for the greater part of its life."""
        self._inside[class_name] = self._inside.get(class_name, 0) + (1 if inside else -1)

    def may_be_part(self, class_name: str) -> bool:
        """False where this class has mostly been seen on its own."""
        return self._inside.get(class_name, 0) >= 0
