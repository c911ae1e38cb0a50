"""From detections and answers to figures: average precision as detection contests count it, and shares."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClassFigures", "PictureMatch", "class_figures", "match_picture"]

Floats = NDArray[np.float64]

_MATCHING_IOU = 0.5


@dataclass(frozen=True, eq=False)
class PictureMatch:
    """One class in one picture: which detections are right.

    Attributes:
        confidence: Shape (N,), falling.
        is_right: Shape (N,), bool.
        is_counted: Shape (N,), bool; False where it found something that nobody asks for.
        found_by: One entry for each object, asked for or not: the detection that found it, -1 for none.
        asked: How many objects were asked for.
    """

    confidence: Floats
    is_right: NDArray[np.bool_]
    is_counted: NDArray[np.bool_]
    found_by: tuple[int, ...]
    asked: int


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class in all pictures."""

    objects: int
    average_precision: float
    """At an overlap of 0.5."""
    recall: float
    """At the confidence that the worker demands; so are the next two."""
    precision: float
    mean_confidence: float
    """Of what was found rightly."""


def match_picture(xyxy: Floats, confidence: Floats, objects: Floats, asked: Sequence[bool]) -> PictureMatch:
    """Give each detection, the most confident first, the free object that it overlaps most.

    Objects that are asked for come before those that are not: a detection that only fits one of the latter is
    neither right nor wrong.

    Source:
        The rules of the COCO contest (Lin et al., 2014) at one overlap, its "ignored" objects included.
    """
    order = np.argsort(-confidence, kind="stable")
    iou = _iou(xyxy[order], objects)
    is_asked = np.array(asked, bool)
    is_right, is_counted = np.zeros(len(order), bool), np.ones(len(order), bool)
    found_by = [-1] * len(objects)
    for rank in range(len(order)):
        free = np.array([by < 0 for by in found_by], bool) & (iou[rank] >= _MATCHING_IOU)
        for wanted in (free & is_asked, free & ~is_asked):
            if wanted.any():
                best = int(np.where(wanted, iou[rank], -1).argmax())
                found_by[best] = int(order[rank])
                is_right[rank] = is_counted[rank] = is_asked[best]
                break
    return PictureMatch(confidence[order], is_right, is_counted, tuple(found_by), int(is_asked.sum()))


def class_figures(matches: Sequence[PictureMatch], *, min_confidence: float) -> ClassFigures:
    """Join the pictures of one class.

    The average precision is the whole area under the curve. Read at 101 points instead, as pycocotools does, it was
    the same as theirs to the last digit on random boxes.
    """
    counted = [one.is_counted for one in matches]
    confidence = np.concatenate([one.confidence[keep] for one, keep in zip(matches, counted, strict=True)])
    is_right = np.concatenate([one.is_right[keep] for one, keep in zip(matches, counted, strict=True)])
    asked = sum(one.asked for one in matches)
    order = np.argsort(-confidence, kind="stable")
    right = np.cumsum(is_right[order])
    precision = right / np.arange(1, len(order) + 1)
    recall = right / max(1, asked)
    # The area under the curve, whose precision never rises again to the left.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    average = float((np.diff(recall, prepend=0.0) * envelope).sum())
    sure = confidence >= min_confidence
    hits = int((is_right & sure).sum())
    mean = float(confidence[is_right & sure].mean()) if hits else 0.0
    return ClassFigures(asked, average, hits / max(1, asked), hits / max(1, int(sure.sum())), mean)


def _iou(first: Floats, second: Floats) -> Floats:
    """Return the overlaps of boxes (N, 4) and (M, 4), shape (N, M)."""
    upper = np.maximum(first[:, None, :2], second[None, :, :2])
    lower = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (lower - upper).clip(0).prod(axis=2)
    areas = [(one[:, 2:] - one[:, :2]).clip(0).prod(axis=1) for one in (first, second)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9))
