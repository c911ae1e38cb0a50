"""Whether a network that is computed in a lower precision still finds the same as in f32.

Of several places that see one object almost equally well, suppression keeps the best; a last digit can decide which.
So a kept box of one precision is looked for among all candidates of the other, before suppression.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import Detections
from detector_worker.core.frame import Frame
from detector_worker.detection.box_math import iou_matrix
from detector_worker.detection.yolo_detector import YOLODetector

__all__ = ["Agreement", "Seen", "check_precision", "compare"]

_MIN_BOXES: Final = 24
"""Fewer say too little, whatever they say."""
_MIN_IOU: Final = 0.98
_MAX_CONFIDENCE_DIFFERENCE: Final = 0.02
_SAME_OBJECT_IOU: Final = 0.5


class Seen(NamedTuple):
    """What one precision found in one picture, above the archive's threshold."""

    candidates: Detections
    kept: Detections
    """Those that suppression left."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two precisions of one network found in the same pictures."""

    pictures: int
    boxes: int
    """Kept in f32."""
    lost: int
    """Objects that the lower precision does not find."""
    gained: int
    """Objects that the lower precision alone finds."""
    changed: int
    """Kept boxes of either that have no counterpart within the bounds among the candidates of the other."""
    max_confidence_difference: float
    """Of one object."""

    @property
    def is_enough(self) -> bool:
        """Whether there were boxes enough to say anything."""
        return self.boxes >= _MIN_BOXES

    @property
    def summary(self) -> str:
        """What was found, for people."""
        outcome = "; ".join(self.faults) or "the same objects as in f32"
        return f"{outcome} ({self.boxes} boxes in {self.pictures} pictures)"

    @property
    def faults(self) -> tuple[str, ...]:
        """Why the lower precision is refused; empty where both agree."""
        bounds = f"an IoU of {_MIN_IOU} and a confidence of {_MAX_CONFIDENCE_DIFFERENCE}"
        found = {
            f"{self.lost} of {self.boxes} objects lost": self.lost,
            f"{self.gained} new ones": self.gained,
            f"{self.changed} boxes without a counterpart within {bounds}": self.changed,
            f"confidence up to {self.max_confidence_difference:.3f} off": self.changed,
        }
        return tuple(fault for fault, count in found.items() if count)


def check_precision(reference: YOLODetector, lower: YOLODetector, pictures: Iterable[Frame]) -> Agreement:
    """Let both look at the same pictures; blocks for two inferences a picture, and may compile before.

    Raises:
        ModelError: The runtime failed.
    """
    return compare([(Seen(*reference.look_closely(one)), Seen(*lower.look_closely(one))) for one in pictures])


def compare(pairs: Iterable[tuple[Seen, Seen]]) -> Agreement:
    """Compare what f32 and the lower precision have seen, picture by picture."""
    pictures = boxes = lost = gained = changed = 0
    difference = 0.0
    for reference, lower in pairs:
        matched = _pair_objects(reference.kept, lower.kept)
        pictures, boxes = pictures + 1, boxes + len(reference.kept)
        lost, gained = lost + len(reference.kept) - len(matched), gained + len(lower.kept) - len(matched)
        changed += _without_counterpart(reference.kept, lower.candidates)
        changed += _without_counterpart(lower.kept, reference.candidates)
        difference = max(difference, *matched, 0.0)
    return Agreement(pictures, boxes, lost, gained, changed, difference)


def _pair_objects(one: Detections, other: Detections) -> list[float]:
    """Pair boxes that show the same object, the best pairs first; returns the difference of confidence of each pair."""
    iou, differences = _class_iou(one, other), []
    while iou.size and iou.max() >= _SAME_OBJECT_IOU:
        first, second = np.unravel_index(iou.argmax(), iou.shape)
        differences.append(abs(float(one.confidence[first]) - float(other.confidence[second])))
        iou[first], iou[:, second] = 0.0, 0.0
    return differences


def _without_counterpart(kept: Detections, candidates: Detections) -> int:
    near = np.abs(kept.confidence[:, None] - candidates.confidence) <= _MAX_CONFIDENCE_DIFFERENCE
    return int((~((_class_iou(kept, candidates) >= _MIN_IOU) & near).any(axis=1)).sum())


def _class_iou(one: Detections, other: Detections) -> NDArray[np.float64]:
    """IoU of each with each, shape (N, M); 0 between different classes."""
    iou = iou_matrix(one.xyxy.astype(np.float64), other.xyxy.astype(np.float64))
    return np.where(one.class_id[:, None] == other.class_id, iou, 0.0)
