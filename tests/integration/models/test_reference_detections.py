"""What the real models find, by the worker and by an implementation that shares nothing with it but the model file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np
import onnxruntime
import openvino
import pytest
from support.assets import assets_dir
from support.loading import model_config, new_manager
from support.naive_decoding import (
    Decoding,
    Image,
    NaiveBox,
    Numbers,
    at_top_left,
    fastestdet_boxes,
    index_text,
    overlap,
    slot_text,
    ssd_boxes,
    stretched,
    suppressed,
    yolox_boxes,
)

from detector_worker.core.frame import Frame
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.models.model_manager import ModelManager
from detector_worker.models.runtimes.onnx_runtime import OnnxRuntime

THRESHOLD: Final = 0.25
MOST_APART_PX, MOST_CONFIDENCE_APART = 1.0, 0.01
COLORS: Final = ["white", "gray", "yellow", "red", "green", "blue", "black"]
TYPES: Final = ["car", "bus", "truck", "van"]
CLASSIFIERS: Final = [
    "classifier/vehicle-attributes-0039.onnx",
    "classifier/vehicle-attributes-recognition-barrier-0039.xml",
]
LATIN: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_"
CHINESE: Final = [*"0123456789", *(f"<{number}>" for number in range(10, 44)), *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]


@dataclass(frozen=True)
class Detector:
    """A model, how a picture is fed to it without the worker, and how its answer is read."""

    file: str
    feed: Callable[[Image], Numbers]
    decoding: Decoding
    settings: dict[str, Any] = field(default_factory=dict)
    least_boxes: int = 25
    """So many it finds in the pictures at the least, else the test says little."""


def _planes(image: Image) -> Numbers:
    return image.transpose(2, 0, 1)[np.newaxis].astype(np.float32)


DETECTORS: Final = {
    "yolox": Detector(
        "detector/yolox_nano.onnx",
        lambda image: _planes(at_top_left(image, 416).image),
        yolox_boxes,
        {"nms": {"iou": 0.5}},
    ),
    "yolox across classes": Detector(
        "detector/yolox_nano.onnx",
        lambda image: _planes(at_top_left(image, 416).image),
        yolox_boxes,
        {"nms": {"iou": 0.5, "acrossClasses": True}},
    ),
    "fastestdet": Detector(
        "detector/fastestdet.onnx",
        lambda image: _planes(stretched(image, (352, 352)).image) / 255,
        fastestdet_boxes,
        {"nms": {"iou": 0.45}},
    ),
    "ssd": Detector(
        "detector/vehicle-detection-0201.xml", lambda image: _planes(stretched(image, (384, 384)).image), ssd_boxes
    ),
    "ssd with NHWC": Detector(
        "plate/vehicle-license-plate-detection-barrier-0106.xml",
        lambda image: stretched(image, (300, 300)).image[np.newaxis].astype(np.float32),
        ssd_boxes,
        least_boxes=7,
    ),
}


def readers(file: str) -> tuple[str, ...]:
    """Which of the worker's runtimes read a file."""
    return ("openvino", "onnxruntime") if file.endswith(".onnx") else ("openvino",)


@cache
def naive_model(path: Path) -> Callable[[Numbers], dict[str, Numbers]]:
    """Run a model by ONNX Runtime, or where it cannot, by OpenVINO without anything added to the graph."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_outputs()]
        return lambda fed: dict(zip(names, session.run(names, {session.get_inputs()[0].name: fed}), strict=True))
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda fed: {min(one.get_names()): values for one, values in compiled(fed).items()}


@cache
def pictures() -> tuple[Image, ...]:
    """Frames of each clip, far from each other, and the photographs."""
    found: list[Image] = []
    for path in sorted((assets_dir() / "clip").glob("*.mp4")):
        with av.open(path) as container:
            chosen = [frame for number, frame in enumerate(container.decode(video=0)) if number in {0, 7, 120, 240}]
            found += [np.asarray(frame.to_ndarray(format="bgr24"), np.uint8) for frame in chosen]
    return (*found, *photographs())


@cache
def photographs() -> tuple[Image, ...]:
    paths = sorted((assets_dir() / "image").iterdir())
    return tuple(np.asarray(cv2.imread(str(path)), np.uint8) for path in paths)


@cache
def crops() -> tuple[Image, ...]:
    """Cut vehicles and plates out of the photographs, by the naive implementation."""
    found = []
    for image in photographs():
        for box in naive_boxes(DETECTORS["ssd with NHWC"], image):
            x1, y1, x2, y2 = (round(edge) for edge in box[2:])
            found.append(image[y1:y2, x1:x2])
    return (*found, *photographs())


def naive_boxes(detector: Detector, image: Image) -> list[NaiveBox]:
    [answer] = naive_model(assets_dir() / detector.file)(detector.feed(image)).values()
    boxes = detector.decoding(answer, image, THRESHOLD)
    if (nms := detector.settings.get("nms")) is None:
        return boxes
    return suppressed(boxes, iou=nms["iou"], across_classes=nms.get("acrossClasses", False))


async def load(file: str, model_type: str, runtime: str = "openvino", **settings: Any) -> YOLODetector:
    manager = new_manager()
    if runtime == "onnxruntime":
        manager = ModelManager(OnnxRuntime(device="cpu", threads=2, requests=1), memory_budget_bytes=1 << 30)
    return await YOLODetector.load_model(manager, model_config(assets_dir() / file, model_type, **settings))


def worker_boxes(detector: YOLODetector, image: Image) -> list[NaiveBox]:
    found = detector.detect(Frame(image, camera_id="", frame_id=0, time_s=0.0, captured_at=0.0), THRESHOLD)
    rows = zip(found.class_id.tolist(), found.confidence.tolist(), found.xyxy.tolist(), strict=True)
    return [NaiveBox(class_id, confidence, *xyxy) for class_id, confidence, xyxy in rows]


def differences(expected: Sequence[NaiveBox], found: Sequence[NaiveBox]) -> list[str]:
    """Name what one has and the other has not; a box as near to the threshold as confidences may differ is no fault."""
    faults, left = [], list(found)
    for box in expected:
        twin = max(
            (one for one in left if one.class_id == box.class_id), key=lambda one: overlap(one, box), default=None
        )
        if twin is not None and overlap(twin, box) > 0.5:
            left.remove(twin)
            apart_px = max(abs(one - other) for one, other in zip(twin[2:], box[2:], strict=True))
            if apart_px > MOST_APART_PX or abs(twin.confidence - box.confidence) > MOST_CONFIDENCE_APART:
                faults.append(f"{box} became {twin}")
        elif box.confidence > THRESHOLD + MOST_CONFIDENCE_APART:
            faults.append(f"lost {box}")
    return faults + [f"new {box}" for box in left if box.confidence > THRESHOLD + MOST_CONFIDENCE_APART]


@pytest.mark.parametrize(
    ("name", "runtime"), [(name, runtime) for name, one in DETECTORS.items() for runtime in readers(one.file)]
)
async def test_the_worker_finds_the_boxes_of_an_independent_implementation(name: str, runtime: str) -> None:
    known = DETECTORS[name]
    detector, boxes = await load(known.file, "detection", runtime, **known.settings), 0

    for image in pictures():
        expected = naive_boxes(known, image)
        assert differences(expected, worker_boxes(detector, image)) == []
        boxes += len(expected)

    assert boxes >= known.least_boxes


@pytest.mark.parametrize(("output", "classes"), [("color", COLORS), ("type", TYPES)])
@pytest.mark.parametrize(("file", "runtime"), [(file, runtime) for file in CLASSIFIERS for runtime in readers(file)])
async def test_a_classifier_says_the_same_of_each_output(
    file: str, output: str, classes: list[str], runtime: str
) -> None:
    settings: dict[str, Any] = {"input": {"color": "bgr", "scale": 1.0}, "output": output, "classes": classes}
    classifier = await load(file, "classification", runtime, **settings)

    for crop in crops():
        answers = naive_model(assets_dir() / file)(_planes(stretched(crop, (72, 72)).image))
        shares = [float(share) for share in answers[output].reshape(-1)]
        result = classifier.classify(crop, 0.0)

        assert result.top_class == classes[shares.index(max(shares))]
        assert result.confidence == pytest.approx(max(shares), abs=MOST_CONFIDENCE_APART)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
async def test_a_reader_of_slots_reads_the_same(runtime: str) -> None:
    file = "plate/cct_xs_v1_global.onnx"
    reader = await load(file, "ocr", runtime, alphabet=list(LATIN))

    for crop in crops():
        fed = stretched(crop, (128, 64)).image[np.newaxis, :, :, ::-1]
        [answer] = naive_model(assets_dir() / file)(np.ascontiguousarray(fed)).values()
        text, sure = slot_text(answer, LATIN)
        result = reader.classify(crop, 0.0)

        assert result.top_class == text
        assert result.confidence == pytest.approx(sure, abs=MOST_CONFIDENCE_APART)


async def test_a_reader_of_indices_reads_the_same() -> None:
    file = "plate/license-plate-recognition-barrier-0007.xml"
    reader = await load(file, "ocr", alphabet=CHINESE)
    texts = set()

    for crop in crops():
        [answer] = naive_model(assets_dir() / file)(_planes(stretched(crop, (94, 24)).image)).values()
        texts.add(text := index_text(answer, CHINESE))

        assert reader.classify(crop, 0.0).top_class == text

    assert len(texts) >= 3
