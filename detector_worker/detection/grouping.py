"""Objects that belong together, by geometry: a plate or a front inside its car."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import Detections
from detector_worker.detection.box_math import area, containment_matrix

__all__ = ["GroupRules", "PartClasses", "find_hidden", "find_wholes"]

_INSIDE: Final = 0.8  # this share of a part lies in its whole
_LARGEST_PART: Final = 0.6
"""A part has at most this share of its whole's area; what is about as large is the same object, seen twice."""
_COVERED: Final = 0.1  # from this share of a box on, what lies before the object changes how it looks
_SAME_CONTAINMENT: Final = 0.05  # wholes that contain a part equally well, but for this, are told apart by their size


def find_wholes(detections: Detections, can_be_part: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return for each of N detections the row of the larger object of another class that contains it, or -1.

    Each part has one whole: the best containing, among equals the smallest. A whole is never itself a part: what
    lies in a part belongs to the part's whole. ``can_be_part``, shape (N,), says which may belong to another at all.
    """
    whole = np.full(len(detections), -1, np.intp)
    class_id, xyxy = detections.class_id, detections.xyxy.astype(np.float64)
    if (class_id == class_id[:1]).all():
        return whole
    size, contained = area(xyxy), containment_matrix(xyxy, xyxy)
    possible = can_be_part[:, None] & (class_id[:, None] != class_id) & (contained >= _INSIDE)
    possible &= size[:, None] <= _LARGEST_PART * size
    best = np.where(possible, contained, 0.0).max(axis=1, keepdims=True)
    smallest = np.where(possible & (contained >= best - _SAME_CONTAINMENT), size, np.inf)
    found = possible.any(axis=1)
    whole[found] = smallest[found].argmin(axis=1)
    while (nested := (whole >= 0) & (whole[whole] >= 0)).any():  # ends, since each whole is larger than its part
        whole[nested] = whole[whole[nested]]
    return whole


def find_hidden(detections: Detections, least_confidence: float) -> NDArray[np.bool_]:
    """Return which of N detections one of at least this confidence covers in part: shape (N,).

    Of two whose boxes overlap, the one that stands lower in the picture is nearer to the camera. What lies wholly in an
    object's box is a part of it, or somebody before it whom it still looks like itself behind.
    """
    xyxy = detections.xyxy.astype(np.float64)
    contained = containment_matrix(xyxy, xyxy)
    covers = (contained > _COVERED) & (xyxy[:, 3] > xyxy[:, 3:]) & (contained.T < _INSIDE)
    return np.asarray((covers & (detections.confidence >= least_confidence)).any(axis=1))


class GroupRules:
    """Which groups become visits, by the archive's classes; names count without regard to case."""

    def __init__(self, *, expected: Iterable[str], required: Iterable[str], trigger: Iterable[str]) -> None:
        self._expected, self._required, self._trigger = map(_folded, (expected, required, trigger))

    def is_complete(self, class_names: Iterable[str]) -> bool:
        """True if a group of these classes has all that are required."""
        return self._required <= _folded(class_names)

    def is_wanted(self, class_names: Iterable[str]) -> bool:
        """True if it also has one of the expected classes, where any are named."""
        names = _folded(class_names)
        return self.is_complete(names) and (not self._expected or not self._expected.isdisjoint(names))

    def is_triggered(self, class_names: Iterable[str]) -> bool:
        """True if a frame with these classes may begin visits."""
        return not self._trigger or not self._trigger.isdisjoint(_folded(class_names))


class PartClasses:
    """Which classes are seen as parts of others, and which on their own mostly.

    That is learned, since class names say nothing: a front is inside a car nearly always, while a car that stops before
    a bus has been seen on its own, or other cars have.
    """

    def __init__(self) -> None:
        self._inside: Counter[str] = Counter()
        """The objects that lived inside others, less those that were seen on their own."""

    def may_be_part(self, class_name: str) -> bool:
        """True until more of a class have been seen on their own than inside others."""
        return self._inside[class_name] >= 0

    def note_own(self, class_name: str) -> None:
        """One has a visit of its own."""
        self._inside[class_name] -= 1

    def note_part(self, class_name: str) -> None:
        """One has lived inside another, and is gone."""
        self._inside[class_name] += 1


def _folded(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.casefold() for name in names)
