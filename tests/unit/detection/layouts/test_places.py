"""The decoders of places against a slow reference, written from the description of each layout, one place at a time."""

import math
from typing import Any

import numpy as np

from detector_worker.core.entities import Detections
from detector_worker.detection.layouts import decode_boxes

Row = tuple[float, float, float, float, float, int]


def reference_yolov5(output: Any, threshold: float) -> list[Row]:
    rows = []
    for cx, cy, width, height, objectness, *classes in output[0].tolist():
        best = max(classes)
        if objectness * best >= threshold:
            box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
            rows.append((*box, objectness * best, classes.index(best)))
    return rows


def reference_yolov8(output: Any, threshold: float) -> list[Row]:
    rows = []
    for place in range(output.shape[2]):
        cx, cy, width, height, *confidences = output[0, :, place].tolist()
        best = max(confidences)
        if best >= threshold:
            box = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
            rows.append((*box, best, confidences.index(best)))
    return rows


def reference_yolox(output: Any, height: int, width: int, threshold: float) -> list[Row]:
    rows, place = [], 0
    for stride in (8, 16, 32):
        for y in range(height // stride):
            for x in range(width // stride):
                dx, dy, log_w, log_h, objectness, *classes = output[0, place].tolist()
                place += 1
                best = max(classes)
                if objectness * best < threshold:
                    continue
                cx, cy, w, h = (dx + x) * stride, (dy + y) * stride, math.exp(log_w) * stride, math.exp(log_h) * stride
                box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                rows.append((*box, objectness * best, classes.index(best)))
    assert place == output.shape[1]
    return rows


def reference_fastestdet(output: Any, height: int, width: int, threshold: float) -> list[Row]:
    rows = []
    for y in range(output.shape[2]):
        for x in range(output.shape[3]):
            objectness, dx, dy, w, h, *classes = output[0, :, y, x].tolist()
            best = max(classes)
            confidence = objectness**0.6 * best**0.4
            if confidence < threshold:
                continue
            cx, cy = (x + math.tanh(dx)) / output.shape[3], (y + math.tanh(dy)) / output.shape[2]
            w, h = 1 / (1 + math.exp(-w)), 1 / (1 + math.exp(-h))
            box = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
            rows.append((*box, confidence, classes.index(best)))
    return rows


def assert_same(candidates: Detections, rows: list[Row]) -> None:
    assert len(rows) > 5, "a reference without boxes proves nothing"
    expected = np.array(rows)
    np.testing.assert_allclose(candidates.xyxy, expected[:, :4], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(candidates.confidence, expected[:, 4], rtol=1e-6)
    np.testing.assert_array_equal(candidates.class_id, expected[:, 5])
    assert [array.dtype.name for array in (candidates.xyxy, candidates.confidence)] == ["float32", "float32"]
    assert candidates.class_id.dtype.name == "int32"


def test_yolov5_agrees_with_the_reference() -> None:
    rng = np.random.default_rng(6)
    boxes = rng.uniform(1, 600, (1, 700, 4))
    output = np.concatenate((boxes, rng.uniform(0, 1, (1, 700, 6))), axis=2).astype(np.float32)

    found = decode_boxes("yolov5", (output,), tuple("abcde"), 0.6, input_hw=(640, 640))

    assert_same(found, reference_yolov5(output, 0.6))


def test_yolov8_agrees_with_the_reference() -> None:
    rng = np.random.default_rng(1)
    boxes = rng.uniform(1, 600, (1, 4, 700))
    output = np.concatenate((boxes, rng.uniform(0, 1, (1, 5, 700)) ** 6), axis=1).astype(np.float32)

    found = decode_boxes("yolov8", (output,), tuple("abcde"), 0.6, input_hw=(640, 640))

    assert_same(found, reference_yolov8(output, 0.6))


def test_what_stands_beyond_the_classes_is_not_read() -> None:
    yolov8, yolov5 = np.zeros((1, 4 + 3 + 32, 10), np.float32), np.zeros((1, 10, 5 + 3 + 32), np.float32)
    yolov8[0, :4], yolov5[0, :, :4], yolov5[0, :, 4] = 10, 10, 1
    yolov8[0, 5, 2], yolov8[0, 20, 2:4] = 0.9, 1.0
    yolov5[0, 2, 6], yolov5[0, 2:4, 20] = 0.9, 1.0

    assert decode_boxes("yolov8", (yolov8,), tuple("abc"), 0.5, input_hw=(64, 64)).class_id.tolist() == [1]
    assert decode_boxes("yolov5", (yolov5,), tuple("abc"), 0.5, input_hw=(64, 64)).class_id.tolist() == [1]


def test_yolox_agrees_with_the_reference() -> None:
    rng = np.random.default_rng(2)
    output = rng.normal(0, 1.5, (1, 84, 4 + 1 + 6)).astype(np.float32)
    output[..., 4:] = rng.uniform(0, 1, (1, 84, 7)) ** 0.5

    found = decode_boxes("yolox", (output,), tuple("abcdef"), 0.5, input_hw=(64, 64))

    assert_same(found, reference_yolox(output, 64, 64, 0.5))


def test_yolox_agrees_with_the_reference_on_a_rectangle() -> None:
    rng = np.random.default_rng(3)
    output = rng.uniform(0, 1, (1, 12 * 20 + 6 * 10 + 3 * 5, 8)).astype(np.float32)

    found = decode_boxes("yolox", (output,), tuple("abc"), 0.7, input_hw=(96, 160))

    assert_same(found, reference_yolox(output, 96, 160, 0.7))


def test_fastestdet_agrees_with_the_reference_on_a_rectangle() -> None:
    rng = np.random.default_rng(7)
    output = rng.normal(0, 1, (1, 5 + 3, 6, 10)).astype(np.float32)
    output[0, 0], output[0, 5:] = rng.uniform(0, 1, (6, 10)), rng.uniform(0, 1, (3, 6, 10))

    found = decode_boxes("fastestdet", (output,), tuple("abc"), 0.5, input_hw=(96, 160))

    assert_same(found, reference_fastestdet(output, 96, 160, 0.5))
