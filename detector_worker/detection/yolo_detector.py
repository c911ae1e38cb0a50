"""From a frame to its detections, and from a crop to its class.

One detector serves every thread that asks: what must not be shared (swscale's state, the padded picture) each
thread has for itself.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self, assert_never

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox, ClassificationResult, DetectionResult, Detections
from detector_worker.core.exceptions import ModelError
from detector_worker.core.frame import Frame, FrameScaler
from detector_worker.detection.letterbox import Letterbox, fit_letterbox, remove_letterbox
from detector_worker.detection.output_layouts import (
    Candidates,
    decode_classification,
    decode_yolov8,
    decode_yolox,
    nms,
)
from detector_worker.models.model_manager import LoadedModel, ModelConfig, ModelManager
from detector_worker.models.runtime import CompiledModel

__all__ = ["BoundingBox", "DetectionResult", "YOLODetector"]

Image = NDArray[np.uint8]
Region = tuple[int, int, int, int]
_MAX_CANVASES: Final = 4


class _Workspace(threading.local):
    """What each thread has for itself."""

    def __init__(self) -> None:
        self.scaler = FrameScaler()
        self.canvases: dict[tuple[tuple[int, int], Letterbox], Image] = {}


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A picture as the network takes it, and the way back."""

    batch: Image
    compiled: CompiledModel
    letterbox: Letterbox
    region: Region


class YOLODetector:
    """One loaded model, whether it detects or classifies. Thread-safe."""

    def __init__(self, model: LoadedModel, *, wanted_classes: frozenset[str] = frozenset()) -> None:
        """Wrap a model.

        Args:
            model: Stays the caller's, who unloads it.
            wanted_classes: Names in any case; detections of others are dropped. Empty: all are wanted.
        """
        self._model, self._reading = model, model.reading
        wanted = {name.casefold() for name in wanted_classes}
        names = self._reading.class_names
        self._class_names = tuple(name or "" for name in names)
        self._wanted = np.array([name is not None and (not wanted or name.casefold() in wanted) for name in names])
        self._workspace = _Workspace()

    @classmethod
    async def load_model(
        cls, manager: ModelManager, config: ModelConfig, *, wanted_classes: frozenset[str] = frozenset()
    ) -> Self:
        """Load a model and wrap it; give ``model`` back to the manager afterwards.

        Raises:
            ModelError: It cannot be loaded.
        """
        return cls(await manager.load_model(config), wanted_classes=wanted_classes)

    @property
    def model(self) -> LoadedModel:
        """The model within."""
        return self._model

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name by class id; empty where the archive does not use an id."""
        return self._class_names

    def detect(
        self, frame: Frame, confidence_threshold: float | None = None, *, region: Region | None = None
    ) -> Detections:
        """Find objects; blocks the calling thread for one inference.

        Args:
            frame: The picture.
            confidence_threshold: 0 to 1; None: the archive's ``minConfidence``.
            region: x1, y1, x2, y2, pixels of the full frame: only there is looked.

        Returns:
            Boxes in pixels of the full frame, clipped to it, the most confident first.

        Raises:
            ModelError: The runtime failed, or the model does not detect.
        """
        threshold = self._model.settings.min_confidence if confidence_threshold is None else confidence_threshold
        width, height = frame.wh
        x1, y1, x2, y2 = region or (0, 0, width, height)
        clipped = (max(0, x1), max(0, y1), min(width, x2), min(height, y2))
        if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
            return Detections.empty(self._class_names)
        prepared = self._preprocess_frame(frame, clipped)
        return self._postprocess_results(prepared.compiled.infer(prepared.batch), prepared, threshold)

    def classify(
        self, picture: Frame | NDArray[np.uint8], confidence_threshold: float | None = None
    ) -> ClassificationResult:
        """Name what a picture shows; blocks the calling thread for one inference.

        Args:
            picture: A frame, or a crop of one, shape (H, W, 3), uint8 BGR, not empty.
            confidence_threshold: 0 to 1; None: the archive's ``minConfidence``. Below it the class is None.

        Raises:
            ModelError: The runtime failed, the picture is empty, or the model does not classify.
        """
        if self._reading.layout != "classification":
            raise self._misuse("does not classify")
        threshold = self._model.settings.min_confidence if confidence_threshold is None else confidence_threshold
        if isinstance(picture, Frame):
            prepared = self._preprocess_frame(picture, (0, 0, *picture.wh))
        elif picture.size:
            wh = (picture.shape[1], picture.shape[0])
            prepared = self._prepare(lambda to_wh: _resize(picture, to_wh), (0, 0, *wh))
        else:
            raise self._misuse("was given an empty picture")
        output = prepared.compiled.infer(prepared.batch)[self._reading.output]
        confidences = np.where(self._wanted, decode_classification(output), 0)
        best = int(confidences.argmax())
        confidence = float(confidences[best])
        return ClassificationResult(self._class_names[best] if confidence >= threshold else None, confidence)

    def _preprocess_frame(self, frame: Frame, region: Region) -> _Prepared:
        """Bring a region of a frame, in its bounds, into the model's input; the whole frame straight from YUV."""
        part = None if region == (0, 0, *frame.wh) else region
        return self._prepare(lambda wh: frame.resized(wh, self._workspace.scaler, region=part), region)

    def _prepare(self, resize: Callable[[tuple[int, int]], Image], region: Region) -> _Prepared:
        source_wh = (region[2] - region[0], region[3] - region[1])
        compiled = self._model.compiled_for(source_wh)
        letterbox = fit_letterbox(source_wh, compiled.input_hw, self._reading.letterbox)
        image = resize(letterbox.content_wh)
        if letterbox.content_wh != compiled.input_hw[::-1]:
            image = self._padded(image, compiled.input_hw, letterbox)
        return _Prepared(image[np.newaxis], compiled, letterbox, region)

    def _padded(self, image: Image, input_hw: tuple[int, int], letterbox: Letterbox) -> Image:
        """Paste a picture into this thread's canvas, whose border is painted but once."""
        canvases = self._workspace.canvases
        canvas = canvases.get((input_hw, letterbox))
        if canvas is None:
            if len(canvases) >= _MAX_CANVASES:
                canvases.clear()
            canvas = np.full((*input_hw, 3), self._reading.pad_value, np.uint8)
            canvases[input_hw, letterbox] = canvas
        (width, height), (x, y) = letterbox.content_wh, letterbox.pad_xy
        canvas[y : y + height, x : x + width] = image
        return canvas

    def _postprocess_results(
        self, outputs: dict[str, NDArray[np.float32]], prepared: _Prepared, threshold: float
    ) -> Detections:
        """Decode the network's answer into boxes on the full frame."""
        output, layout = outputs[self._reading.output], self._reading.layout
        match layout:
            case "yolov8":
                found = decode_yolov8(output, len(self._class_names), threshold)
            case "yolox":
                found = decode_yolox(output, prepared.compiled.input_hw, threshold)
            case "classification":
                raise self._misuse("does not detect")
            case _:
                assert_never(layout)
        found = self._filter_detections(found)
        x1, y1, x2, y2 = prepared.region
        xyxy = remove_letterbox(found.xyxy, prepared.letterbox) + np.array((x1, y1, x1, y1), np.float32)
        xyxy[:, 0::2] = xyxy[:, 0::2].clip(x1, x2)
        xyxy[:, 1::2] = xyxy[:, 1::2].clip(y1, y2)
        detections = Detections(xyxy, found.confidence, found.class_id, self._class_names)
        return detections.select(np.asarray((xyxy[:, 2:] > xyxy[:, :2]).all(axis=1), np.bool_))

    def _filter_detections(self, candidates: Candidates) -> Candidates:
        """Drop classes that nobody wants, before they could suppress others, and doubles."""
        wanted = candidates.select(self._wanted[candidates.class_id])
        settings = self._model.settings.nms
        return wanted.select(nms(wanted, iou=settings.iou, across_classes=settings.across_classes))

    def _misuse(self, what: str) -> ModelError:
        return ModelError(
            f"The model {what}", where=f"model {self._model.model_id}", mend="Check modelType in the archive."
        )


def _resize(image: Image, wh: tuple[int, int]) -> Image:
    return np.asarray(cv2.resize(image, wh, interpolation=cv2.INTER_LINEAR), np.uint8)
