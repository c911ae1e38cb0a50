"""One branch's own work: which pictures it reads, what its model says of them, and the result for the record."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import ClassificationResult, Detections, FieldValue, Shot
from detector_worker.core.frame import Frame, Region
from detector_worker.models.pipeline_config import BranchConfig
from detector_worker.pipeline.context import find_class
from detector_worker.pipeline.pictures import box_region
from detector_worker.pipeline.voting import join_votes

__all__ = ["PictureModel", "View", "branch_result", "choose_views", "read_view"]


class PictureModel(Protocol):
    """What a branch asks of a model; `detection.yolo_detector.YOLODetector` gives it. Thread-safe."""

    def detect(self, frame: Frame, confidence_threshold: float, /, *, region: Region | None = None) -> Detections:
        """Return what is in a frame, or in a region of it, in pixels of the full frame."""
        ...

    def classify(self, picture: Frame | NDArray[np.uint8], confidence_threshold: float, /) -> ClassificationResult:
        """Return the class or the text of a picture, shape (H, W, 3), uint8 BGR."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """One picture for a branch: a shot, and the region of its frame; None: all of it."""

    shot: Shot
    region: Region | None


def choose_views(branch: BranchConfig, shots: Sequence[Shot], current: Shot) -> tuple[View, ...]:
    """Choose the pictures that a branch reads: the best one, or with voting the best few.

    Args:
        branch: Its trigger classes must be in the group, its crop class is what the view shows.
        shots: Best first.
        current: Read only where no shot shows what the branch wants.

    Returns:
        Best first; empty where there is nothing for this branch to read.
    """
    views = [view for shot in shots if (view := _view_of(branch, shot)) is not None]
    if not views and (view := _view_of(branch, current)) is not None:
        views = [view]
    return tuple(views[: branch.voting.frames if branch.voting else 1])


def read_view(model: PictureModel, branch: BranchConfig, view: View) -> tuple[ClassificationResult, Shot]:
    """Ask a branch's model about one picture; blocks.

    Returns:
        The reading, whatever its confidence; and the shot for nested branches, which for a detection model
        holds what it found as well.

    Raises:
        ModelError: The model failed.
    """
    frame = view.shot.frame
    if branch.model_type == "detection":
        found = tuple(model.detect(frame, branch.min_confidence, region=view.region).results(frame.captured_at))
        best = max(found, key=lambda detection: detection.confidence, default=None)
        reading = ClassificationResult(best.class_name, best.confidence) if best else ClassificationResult(None, 0.0)
        return reading, replace(view.shot, detections=(*view.shot.detections, *found))
    if branch.resize_target is None:
        return model.classify(frame if view.region is None else frame.crop(view.region), 0.0), view.shot
    image = frame.bgr() if view.region is None else frame.crop(view.region)
    resized = cast("NDArray[np.uint8]", cv2.resize(image, branch.resize_target, interpolation=cv2.INTER_LINEAR))
    return model.classify(resized, 0.0), view.shot


def branch_result(branch: BranchConfig, readings: Sequence[ClassificationResult]) -> dict[str, FieldValue]:
    """Join the readings of a branch's pictures into ``{resultField: label, "confidence": p}``.

    No readings: both are null. Below the branch's ``minConfidence`` the label is null.
    """
    if not readings:
        return {branch.result_field: None, "confidence": None}
    joined = join_votes(readings, branch.voting.method if branch.voting else "majority")
    label = joined.top_class if joined.confidence >= branch.min_confidence else None
    return {branch.result_field: label, "confidence": joined.confidence}


def _view_of(branch: BranchConfig, shot: Shot) -> View | None:
    if branch.trigger_classes and all(find_class(shot, name) is None for name in branch.trigger_classes):
        return None
    if not branch.crop:
        return View(shot, None)
    if branch.crop_class is not None:
        shown = find_class(shot, branch.crop_class)
    else:
        shown = shot.detections[0] if shot.detections else None
    if shown is None:
        return None
    region = box_region(shown.bounding_box, shot.frame.wh, padding=branch.crop_padding)
    is_empty = region[0] >= region[2] or region[1] >= region[3]
    return None if is_empty else View(shot, region)
