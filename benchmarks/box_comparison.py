"""How far two answers about the same picture are apart, box by box."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from detector_worker.core.entities import Detections
from detector_worker.detection.box_math import iou_matrix

__all__ = ["BoxComparison", "Pair", "pair_boxes"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A box of the reference and ours for the same thing; either may be absent."""

    confidences: tuple[float | None, float | None]
    iou: float = 0.0
    apart_px: float = 0.0
    """Of the edge that is farthest off."""

    @property
    def confidence_apart(self) -> float:
        """Difference of the confidences; 0 where one box is absent."""
        ours, theirs = self.confidences
        return 0.0 if ours is None or theirs is None else abs(ours - theirs)


def pair_boxes(reference: Detections, ours: Detections, *, least_iou: float = 0.5) -> list[Pair]:
    """Pair boxes of one class so that the IoU is largest in sum; what overlaps less than ``least_iou`` stays alone."""
    iou = iou_matrix(reference.xyxy.astype(np.float64), ours.xyxy.astype(np.float64))
    iou[reference.class_id[:, None] != ours.class_id] = 0.0
    rows, columns = linear_sum_assignment(-iou)
    together = [(row, column) for row, column in zip(rows, columns, strict=True) if iou[row, column] >= least_iou]
    pairs = [
        Pair(
            (float(reference.confidence[row]), float(ours.confidence[column])),
            float(iou[row, column]),
            float(np.abs(reference.xyxy[row] - ours.xyxy[column]).max()),
        )
        for row, column in together
    ]
    lost = set(range(len(reference))) - {int(row) for row, _ in together}
    new = set(range(len(ours))) - {int(column) for _, column in together}
    pairs += [Pair((float(reference.confidence[row]), None)) for row in sorted(lost)]
    return pairs + [Pair((None, float(ours.confidence[column]))) for column in sorted(new)]


@dataclass(frozen=True, slots=True)
class BoxComparison:
    """The figures of many pictures."""

    pictures: int
    boxes: int
    """Of the reference."""
    lost: int
    new: int
    borderline: int
    """Lost or new, but within ``margin`` of the threshold; not counted in those two."""
    max_apart_px: float
    max_confidence_apart: float
    min_iou: float

    @classmethod
    def of(cls, pairs_by_picture: Iterable[list[Pair]], *, threshold: float, margin: float = 0.0) -> "BoxComparison":
        """Sum up pairs; a box alone that is as close to the threshold as ``margin`` is borderline."""
        pictures = list(pairs_by_picture)
        pairs = [pair for picture in pictures for pair in picture]
        both = [pair for pair in pairs if None not in pair.confidences]
        alone = [pair for pair in pairs if None in pair.confidences]
        far = [pair for pair in alone if sum(one or 0.0 for one in pair.confidences) > threshold + margin]
        return cls(
            pictures=len(pictures),
            boxes=sum(pair.confidences[0] is not None for pair in pairs),
            lost=sum(pair.confidences[1] is None for pair in far),
            new=sum(pair.confidences[0] is None for pair in far),
            borderline=len(alone) - len(far),
            max_apart_px=max((pair.apart_px for pair in both), default=0.0),
            max_confidence_apart=max((pair.confidence_apart for pair in both), default=0.0),
            min_iou=min((pair.iou for pair in both), default=1.0),
        )
