"""From a frame to its detections, and from a crop to its class or its text."""

import threading
from dataclasses import replace
from typing import Final, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox, ClassificationResult, DetectionResult, Detections
from detector_worker.core.exceptions import ModelError
from detector_worker.core.frame import Frame, FrameScaler, Region
from detector_worker.detection.letterbox import Letterbox, fit_letterbox, remove_letterbox
from detector_worker.detection.output_layouts import (
    decode_classification,
    decode_text_slots,
    decode_yolov8,
    decode_yolox,
    nms,
)
from detector_worker.models.model_manager import LoadedModel, ModelConfig, ModelManager
from detector_worker.models.runtimes.runtime import Outputs

__all__ = ["BoundingBox", "DetectionResult", "YOLODetector"]

Image = NDArray[np.uint8]
_NAMING: Final = frozenset({"classification", "textSlots"})
"""Layouts that say what a picture shows, not where."""


class _Workspace(threading.local):
    """What each thread has for itself."""

    def __init__(self) -> None:
        self.scaler = FrameScaler()


class YOLODetector:
    """One loaded model, whether it detects, classifies or reads text. Thread-safe.

    Args:
        model: Stays the caller's, who unloads it.
        wanted_classes: Names in any case; detections of others are dropped. Empty: all are wanted.
    """

    def __init__(self, model: LoadedModel, *, wanted_classes: frozenset[str] = frozenset()) -> None:
        self.model, self._reading, self._workspace = model, model.reading, _Workspace()
        wanted, names = {name.casefold() for name in wanted_classes}, self._reading.class_names
        self._class_names = tuple(name or "" for name in names)
        self._wanted = np.array([name is not None and (not wanted or name.casefold() in wanted) for name in names])

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
        if self._reading.layout in _NAMING:
            raise self._misuse("does not detect")
        (width, height), (x1, y1, x2, y2) = frame.wh, region or (0, 0, *frame.wh)
        region = (max(0, x1), max(0, y1), min(width, x2), min(height, y2))
        if region[0] >= region[2] or region[1] >= region[3]:
            return Detections.empty(self._class_names)
        outputs, letterbox = self._infer(frame, region)
        return self._postprocess_results(outputs, letterbox, self._threshold(confidence_threshold))

    def classify(self, picture: Frame | Image, confidence_threshold: float | None = None) -> ClassificationResult:
        """Name or read what a frame, or a crop of one in BGR, shows; blocks the calling thread for one inference.

        Of a text model the class is the whole text, None where there is none. Below the threshold, or without one
        the archive's ``minConfidence``, the class is None.

        Raises:
            ModelError: The runtime failed, the picture is empty, or the model does not classify.
        """
        if self._reading.layout not in _NAMING:
            raise self._misuse("does not classify")
        if not isinstance(picture, Frame):
            picture = Frame(picture, camera_id="", frame_id=0, time_s=0.0, captured_at=0.0)
        if 0 in picture.wh:
            raise self._misuse("was given an empty picture")
        outputs, _ = self._infer(picture, (0, 0, *picture.wh))
        label, confidence = self._decode_label(outputs[self._reading.output])
        is_sure = confidence >= self._threshold(confidence_threshold)
        return ClassificationResult(label if is_sure else None, confidence)

    def _infer(self, frame: Frame, region: Region) -> tuple[Outputs, Letterbox]:
        compiled = self.model.compiled_for((region[2] - region[0], region[3] - region[1]))
        letterbox = fit_letterbox(region, compiled.input_hw, self._reading.letterbox)
        return compiled.infer(self._preprocess_frame(frame, letterbox)), letterbox

    def _preprocess_frame(self, frame: Frame, letterbox: Letterbox) -> Image:
        """Bring a region of a frame into the model's input; the whole frame straight from YUV."""
        part = None if letterbox.region == (0, 0, *frame.wh) else letterbox.region
        image = frame.resized(letterbox.content_wh, self._workspace.scaler, region=part)
        (width, height), (x, y), (input_h, input_w) = letterbox.content_wh, letterbox.pad_xy, letterbox.input_hw
        borders = (y, input_h - y - height, x, input_w - x - width)
        grey = (self._reading.pad_value,) * 3
        return np.asarray(cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=grey), np.uint8)

    def _decode_label(self, output: NDArray[np.float32]) -> tuple[str | None, float]:
        if self._reading.layout == "textSlots":
            return decode_text_slots(output, self._class_names)
        confidences = np.where(self._wanted, decode_classification(output), 0)
        best = int(confidences.argmax())
        return self._class_names[best], float(confidences[best])

    def _postprocess_results(self, outputs: Outputs, letterbox: Letterbox, threshold: float) -> Detections:
        """Decode the network's answer into boxes on the full frame."""
        output = outputs[self._reading.output]
        if self._reading.layout == "yolox":
            found = decode_yolox(output, self._class_names, threshold, input_hw=letterbox.input_hw)
        else:
            found = decode_yolov8(output, self._class_names, threshold)
        found = self._filter_detections(found)
        xyxy = remove_letterbox(found.xyxy, letterbox)
        return replace(found, xyxy=xyxy).select(np.flatnonzero((xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)))

    def _filter_detections(self, found: Detections) -> Detections:
        """Drop classes that nobody wants, before they could suppress others, and doubles."""
        wanted, settings = found.select(self._wanted[found.class_id]), self.model.settings.nms
        return wanted.select(nms(wanted, iou=settings.iou, across_classes=settings.across_classes))

    def _threshold(self, asked: float | None) -> float:
        return self.model.settings.min_confidence if asked is None else asked

    def _misuse(self, what: str) -> ModelError:
        where, mend = f"model {self.model.model_id}", "Check modelType in the archive."
        return ModelError(f"The model {what}", where=where, mend=mend)
