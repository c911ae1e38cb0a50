"""One branch's own work: which pictures it reads, what its model says of them, and the result for the record."""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from detector_worker.core.entities import ClassificationResult, DetectionResult, FieldValue, Shot
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.models.pipeline_config import BranchConfig
from detector_worker.pipeline.context import View, find_class
from detector_worker.pipeline.pictures import box_region, crop_region_from_frame

__all__ = ["branch_result", "choose_views", "join_votes", "read_view"]

Found = tuple[DetectionResult, ...]


def choose_views(branch: BranchConfig, shots: Sequence[Shot]) -> list[View]:
    """Choose the pictures that a branch reads: the best that shows what it wants, or with voting the best few."""
    views = [view for shot in shots if (view := _view_of(branch, shot)) is not None]
    return views[: branch.voting.frames if branch.voting else 1]


def read_view(model: YOLODetector, branch: BranchConfig, view: View) -> tuple[ClassificationResult, Found]:
    """Ask a branch's model about one picture, and what it detects there; blocks; may raise a `ModelError`."""
    frame, box = view
    if branch.model_type == "detection":
        region = None if box is None else box_region(box, padding=branch.crop_padding)
        found = tuple(model.detect(frame, branch.min_confidence, region=region).results(frame.captured_at))
        best = max(found, key=lambda detection: detection.confidence, default=None)
        reading = ClassificationResult(best.class_name, best.confidence) if best else ClassificationResult(None, 0.0)
        return reading, found
    if box is None and branch.resize_target is None:
        return model.classify(frame, 0.0), ()
    image = crop_region_from_frame(frame, box, padding=branch.crop_padding)
    if branch.resize_target is not None:
        image = np.asarray(cv2.resize(image, branch.resize_target, interpolation=cv2.INTER_LINEAR), np.uint8)
    return model.classify(image, 0.0), ()


def branch_result(branch: BranchConfig, readings: Sequence[ClassificationResult]) -> dict[str, FieldValue]:
    """Join readings into ``{resultField: label, "confidence": p}``: below ``minConfidence`` the label is null."""
    if not readings:
        return {branch.result_field: None, "confidence": None}
    joined = join_votes(readings, branch.voting.method if branch.voting else "majority")
    label = joined.top_class if joined.confidence >= branch.min_confidence else None
    return {branch.result_field: label, "confidence": joined.confidence}


def join_votes(
    votes: Sequence[ClassificationResult], method: Literal["confidence_weighted", "majority"]
) -> ClassificationResult:
    """Join the readings of one or more pictures, best first; those without a label are pictures, but no votes.

    ``confidence_weighted``: the label with the greatest sum of confidences; its confidence is that sum over
    the number of *all* pictures, so that disagreement lowers it. ``majority``: the label with most votes,
    whose confidence is the mean of its own. A tie goes to the greater sum, then to the better picture's label.
    """
    by_label: dict[str, list[float]] = {}
    for vote in votes:
        if vote.top_class is not None:
            by_label.setdefault(vote.top_class, []).append(vote.confidence)
    if not by_label:
        return ClassificationResult(None, max(vote.confidence for vote in votes))
    by_count = method == "majority"
    # `max` keeps the first of equals, and the labels stand in the order of their pictures.
    label, own = max(by_label.items(), key=lambda item: (len(item[1]) if by_count else 0, sum(item[1])))
    return ClassificationResult(label, sum(own) / len(own if by_count else votes))


def _view_of(branch: BranchConfig, shot: Shot) -> View | None:
    if branch.trigger_classes and all(find_class(shot, name) is None for name in branch.trigger_classes):
        return None
    if not branch.crop:
        return shot.frame, None
    shown = shot.detections[0] if branch.crop_class is None else find_class(shot, branch.crop_class)
    return None if shown is None else (shot.frame, shown.bounding_box)
