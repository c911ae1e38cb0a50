"""From a frame to its detections, and from a crop to its class or its text."""

import threading
from dataclasses import dataclass, replace
from typing import Final, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox, ClassificationResult, DetectionResult, Detections
from detector_worker.core.exceptions import ModelError
from detector_worker.core.frame import Frame, FrameScaler, Region
from detector_worker.detection.layouts import decode_boxes, decode_label, nms
from detector_worker.detection.letterbox import Letterbox, fit_letterbox, remove_letterbox
from detector_worker.models.model_manager import LoadedModel, ModelConfig, ModelManager
from detector_worker.models.runtimes.runtime import CompiledModel, Outputs

__all__ = ["BoundingBox", "DetectionResult", "YOLODetector", "inside_frame", "region_wh"]

Image = NDArray[np.uint8]
_NAMING: Final = frozenset({"classification", "textIndex", "textSlots", "textCtc"})
"""Layouts that say what a picture shows, not where."""


class _Workspace(threading.local):
    """What each thread has for itself."""

    def __init__(self) -> None:
        self.scaler = FrameScaler()


@dataclass(frozen=True, slots=True)
class _ModelInUse:
    """A model and what follows from it: replaced as one, so that no call ever sees parts of two."""

    model: LoadedModel
    class_names: tuple[str, ...]
    is_wanted: NDArray[np.bool_]
    """By class id."""

    @classmethod
    def of(cls, model: LoadedModel, wanted_classes: frozenset[str]) -> Self:
        names = model.reading.class_names
        is_wanted = [name is not None and (not wanted_classes or name.casefold() in wanted_classes) for name in names]
        return cls(model, tuple(name or "" for name in names), np.array(is_wanted))


class YOLODetector:
    """One loaded model, whether it detects, classifies or reads text. Thread-safe.

    Args:
        model: Stays the caller's, who unloads it.
        wanted_classes: Names in any case; detections of others are dropped. Empty: all are wanted.
    """

    def __init__(self, model: LoadedModel, *, wanted_classes: frozenset[str] = frozenset()) -> None:
        self._wanted_classes = frozenset(name.casefold() for name in wanted_classes)
        self._workspace = _Workspace()
        self.use(model)

    @property
    def model(self) -> LoadedModel:
        """Which one the next call asks."""
        return self._in_use.model

    def use(self, model: LoadedModel) -> None:
        """Ask this model from the next call on; calls under way end with the one before."""
        self._in_use = _ModelInUse.of(model, self._wanted_classes)

    @classmethod
    async def load_model(
        cls, manager: ModelManager, config: ModelConfig, *, wanted_classes: frozenset[str] = frozenset()
    ) -> Self:
        """Load a model and wrap it; give ``model`` back to the manager afterwards."""
        return cls(await manager.load_model(config), wanted_classes=wanted_classes)

    def detect(
        self, frame: Frame, confidence_threshold: float | None = None, *, region: Region | None = None
    ) -> Detections:
        """Find objects in a frame or in a region of it; blocks the calling thread for one inference.

        Returns:
            Boxes in pixels of the full frame, clipped to the region, the most confident first. Without a threshold
            the archive's ``minConfidence`` holds.

        Raises:
            ModelError: The runtime failed, or the model does not detect.
        """
        in_use = self._in_use
        if in_use.model.reading.layout in _NAMING:
            raise _misuse(in_use.model, "does not detect")
        inside = inside_frame(frame, region)
        if inside is None:
            return Detections.empty(in_use.class_names)
        outputs, letterbox = self._infer(in_use.model, frame, inside)
        return _postprocess_results(in_use, outputs, letterbox, _threshold(in_use.model, confidence_threshold))

    def look_closely(self, frame: Frame) -> tuple[Detections, Detections]:
        """Find objects as `detect` does; returns all candidates, and those of them that suppression leaves."""
        in_use = self._in_use
        outputs, letterbox = self._infer(in_use.model, frame, (0, 0, *frame.wh))
        candidates = _candidates(in_use, outputs, letterbox, _threshold(in_use.model, None))
        return _to_frame(candidates, letterbox), _to_frame(_filter_detections(in_use, candidates), letterbox)

    def fed(self, frame: Frame) -> Image:
        """Return what the network is given for a whole frame: shape (H, W, 3) of its input, uint8 BGR."""
        model = self.model
        _, letterbox = _fitted(model, (0, 0, *frame.wh))
        return self._preprocess_frame(frame, letterbox, model.reading.pad_value)

    def reduced(self, frame: Frame, region: Region | None = None) -> Frame:
        """Return a frame, or a region of it, not larger than the model sees it; in BGR, without its times."""
        inside = inside_frame(frame, region) or (0, 0, *frame.wh)
        _, letterbox = _fitted(self.model, inside)
        part = None if inside == (0, 0, *frame.wh) else inside
        image = frame.resized(letterbox.content_wh, self._workspace.scaler, region=part)
        return Frame(image, camera_id=frame.camera_id, frame_id=frame.frame_id, time_s=0.0, captured_at=0.0)

    def classify(self, picture: Frame | Image, confidence_threshold: float | None = None) -> ClassificationResult:
        """Name or read what a frame, or a crop of one in BGR, shows; blocks the calling thread for one inference.

        Of a text model the class is the whole text, None where there is none. Below the threshold, or without one
        the archive's ``minConfidence``, the class is None.

        Raises:
            ModelError: The runtime failed, the picture is empty, or the model does not classify.
        """
        in_use = self._in_use
        reading = in_use.model.reading
        if reading.layout not in _NAMING:
            raise _misuse(in_use.model, "does not classify")
        if not isinstance(picture, Frame):
            picture = Frame(picture, camera_id="", frame_id=0, time_s=0.0, captured_at=0.0)
        if 0 in picture.wh:
            raise _misuse(in_use.model, "was given an empty picture")
        outputs, _ = self._infer(in_use.model, picture, (0, 0, *picture.wh))
        label, confidence = decode_label(reading.layout, outputs[reading.outputs[0]], in_use.class_names)
        is_sure = confidence >= _threshold(in_use.model, confidence_threshold)
        return ClassificationResult(label if is_sure else None, confidence)

    def _infer(self, model: LoadedModel, frame: Frame, region: Region) -> tuple[Outputs, Letterbox]:
        compiled, letterbox = _fitted(model, region)
        return compiled.infer(self._preprocess_frame(frame, letterbox, model.reading.pad_value)), letterbox

    def _preprocess_frame(self, frame: Frame, letterbox: Letterbox, pad_value: int) -> Image:
        """Bring a region of a frame into the model's input; the whole frame straight from YUV."""
        part = None if letterbox.region == (0, 0, *frame.wh) else letterbox.region
        image = frame.resized(letterbox.content_wh, self._workspace.scaler, region=part)
        (width, height), (x, y), (input_h, input_w) = letterbox.content_wh, letterbox.pad_xy, letterbox.input_hw
        borders = (y, input_h - y - height, x, input_w - x - width)
        grey = (pad_value,) * 3
        return np.asarray(cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=grey), np.uint8)


def inside_frame(frame: Frame, region: Region | None) -> Region | None:
    """Clip a region to its frame; None where nothing is left."""
    (width, height), (x1, y1, x2, y2) = frame.wh, region or (0, 0, *frame.wh)
    x1, y1, x2, y2 = max(0, x1), max(0, y1), min(width, x2), min(height, y2)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def region_wh(region: Region) -> tuple[int, int]:
    """Return width and height, pixels."""
    return region[2] - region[0], region[3] - region[1]


def _fitted(model: LoadedModel, region: Region) -> tuple[CompiledModel, Letterbox]:
    """Return the network for a region's size, and how the region lies in its input."""
    compiled = model.compiled_for(region_wh(region))
    return compiled, fit_letterbox(region, compiled.input_hw, model.reading.letterbox)


def _postprocess_results(in_use: _ModelInUse, outputs: Outputs, letterbox: Letterbox, threshold: float) -> Detections:
    """Decode the network's answer into boxes on the full frame."""
    candidates = _candidates(in_use, outputs, letterbox, threshold)
    return _to_frame(_filter_detections(in_use, candidates), letterbox)


def _candidates(in_use: _ModelInUse, outputs: Outputs, letterbox: Letterbox, threshold: float) -> Detections:
    """Return all boxes of wanted classes, in the model's input; others must not suppress them."""
    reading = in_use.model.reading
    answers = tuple(outputs[name] for name in reading.outputs)
    found = decode_boxes(reading.layout, answers, in_use.class_names, threshold, input_hw=letterbox.input_hw)
    return found.select(in_use.is_wanted[found.class_id])


def _to_frame(found: Detections, letterbox: Letterbox) -> Detections:
    xyxy = remove_letterbox(found.xyxy, letterbox)
    return replace(found, xyxy=xyxy).select(np.flatnonzero((xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)))


def _filter_detections(in_use: _ModelInUse, candidates: Detections) -> Detections:
    """Drop doubles; the most confident come first."""
    settings = in_use.model.reading.nms
    if settings is None:
        return candidates.select(np.argsort(-candidates.confidence, kind="stable"))
    return candidates.select(nms(candidates, iou=settings.iou, across_classes=settings.across_classes))


def _threshold(model: LoadedModel, asked: float | None) -> float:
    return model.settings.min_confidence if asked is None else asked


def _misuse(model: LoadedModel, what: str) -> ModelError:
    return ModelError(f"The model {what}", where=f"model {model.model_id}", mend="Check modelType in the archive.")
