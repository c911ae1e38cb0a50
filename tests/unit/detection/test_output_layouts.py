"""The decoders against a slow reference, written from the description of each layout, one place at a time."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from detector_worker.core.entities import Detections
from detector_worker.detection.output_layouts import (
    decode_classification,
    decode_text_slots,
    decode_yolov8,
    decode_yolox,
    nms,
)

Row = tuple[float, float, float, float, float, int]


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


def reference_iou(one: Any, other: Any) -> float:
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = width * height
    union = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared
    return shared / union if union > 0 else 0.0


def assert_same(candidates: Detections, rows: list[Row]) -> None:
    assert len(rows) > 5, "a reference without boxes proves nothing"
    expected = np.array(rows)
    np.testing.assert_allclose(candidates.xyxy, expected[:, :4], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(candidates.confidence, expected[:, 4], rtol=1e-6)
    np.testing.assert_array_equal(candidates.class_id, expected[:, 5])
    assert [array.dtype.name for array in (candidates.xyxy, candidates.confidence)] == ["float32", "float32"]
    assert candidates.class_id.dtype.name == "int32"


def test_yolov8_agrees_with_the_reference() -> None:
    rng = np.random.default_rng(1)
    boxes = rng.uniform(0, 600, (1, 4, 700))
    output = np.concatenate((boxes, rng.uniform(0, 1, (1, 5, 700)) ** 6), axis=1).astype(np.float32)

    assert_same(decode_yolov8(output, tuple("abcde"), 0.6), reference_yolov8(output, 0.6))


def test_yolov8_reads_no_further_than_its_classes() -> None:
    output = np.zeros((1, 4 + 3 + 32, 10), np.float32)
    output[0, 5, 2], output[0, 20, 3] = 0.9, 1.0

    assert decode_yolov8(output, tuple("abc"), 0.5).class_id.tolist() == [1]


def test_yolox_agrees_with_the_reference() -> None:
    rng = np.random.default_rng(2)
    output = rng.normal(0, 1.5, (1, 84, 4 + 1 + 6)).astype(np.float32)
    output[..., 4:] = rng.uniform(0, 1, (1, 84, 7)) ** 0.5

    assert_same(decode_yolox(output, tuple("abcdef"), 0.5, input_hw=(64, 64)), reference_yolox(output, 64, 64, 0.5))


def test_yolox_agrees_with_the_reference_on_a_rectangle() -> None:
    rng = np.random.default_rng(3)
    output = rng.uniform(0, 1, (1, 12 * 20 + 6 * 10 + 3 * 5, 8)).astype(np.float32)

    assert_same(decode_yolox(output, tuple("abc"), 0.7, input_hw=(96, 160)), reference_yolox(output, 96, 160, 0.7))


@pytest.mark.parametrize("wild", [np.inf, -np.inf, np.nan, 1e30])
def test_wild_numbers_give_no_box_that_is_not_finite(wild: float) -> None:
    yolov8 = np.full((1, 7, 50), wild, np.float32)
    yolov8[0, 4] = 0.9
    yolox = np.full((1, 84, 8), wild, np.float32)
    yolox[..., 4:] = 0.9

    with np.errstate(all="ignore"):
        for found in (decode_yolov8(yolov8, ("a",), 0.5), decode_yolox(yolox, tuple("abc"), 0.5, input_hw=(64, 64))):
            assert np.isfinite(found.xyxy).all()


def test_of_too_many_boxes_the_most_confident_stay() -> None:
    output = np.zeros((1, 5, 3000), np.float32)
    output[0, 4] = np.random.default_rng(4).permutation(np.linspace(0.5, 1, 3000))

    found = decode_yolov8(output, ("a",), 0.5)

    assert len(found.confidence) == 1000
    assert found.confidence.min() >= np.sort(output[0, 4])[-1000]


def test_a_softmax_is_applied_only_where_it_is_missing() -> None:
    distribution = np.array([[0.7, 0.2, 0.1]], np.float32)

    np.testing.assert_array_equal(decode_classification(distribution.reshape(1, 3, 1, 1)), distribution[0])
    np.testing.assert_allclose(
        decode_classification(np.array([[1.0, 2.0, 3.0]], np.float32)), [0.09003057, 0.24472847, 0.66524096], atol=1e-6
    )


def test_logits_that_are_huge_or_sum_to_one_by_chance_are_still_logits() -> None:
    np.testing.assert_allclose(decode_classification(np.array([[1000.0, 0.0]], np.float32)), [1, 0])
    np.testing.assert_allclose(
        decode_classification(np.array([[2.0, -1.0]], np.float32)), [0.95257413, 0.04742587], atol=1e-6
    )


def slots(*rows: tuple[str, float]) -> Any:
    """A distribution over ``ABC_`` for each symbol: its confidence, and the rest shared among the others."""
    output = np.array(
        [[confidence if one == symbol else (1 - confidence) / 3 for one in "ABC_"] for symbol, confidence in rows]
    )
    return output[np.newaxis].astype(np.float32)


@pytest.mark.parametrize(
    ("rows", "text", "confidence"),
    [
        ([("A", 0.9), ("B", 0.7), ("A", 0.8)], "ABA", 0.7),
        ([("C", 0.9), ("_", 0.95), ("_", 1.0)], "C", 0.9),
        ([("A", 0.9), ("_", 0.8), ("A", 1.0)], "AA", 0.8),
        ([("A", 0.9), ("_", 0.4), ("_", 1.0)], "A", 0.4),
        ([("_", 0.9), ("_", 0.6)], None, 0.6),
    ],
)
def test_a_text_is_the_symbols_without_padding_and_as_sure_as_its_weakest_slot(
    rows: list[tuple[str, float]], text: str | None, confidence: float
) -> None:
    read, sure = decode_text_slots(slots(*rows), tuple("ABC_"))

    assert read == text
    assert sure == pytest.approx(confidence)


def test_a_symbol_may_be_a_word_or_nothing() -> None:
    assert decode_text_slots(slots(("A", 1), ("B", 1), ("_", 1)), ("<Zhejiang>", "7", "", "_"))[0] == "<Zhejiang>7"
    assert decode_text_slots(slots(("C", 1)), ("a", "b", "", "_"))[0] is None


def test_a_text_is_the_same_from_logits_and_from_their_softmax() -> None:
    logits = np.random.default_rng(5).normal(0, 4, (1, 200, 4)).astype(np.float32)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)

    text, confidence = decode_text_slots(logits, tuple("ABC_"))

    assert text == "".join("ABC_"[row.index(max(row))] for row in logits[0].tolist()).replace("_", "")
    assert confidence == pytest.approx(softmax.max(axis=2).min(), rel=1e-5)
    assert decode_text_slots(softmax, tuple("ABC_")) == (text, softmax.max(axis=2).min())


def test_one_slot_of_logits_that_looks_like_a_distribution_is_still_logits() -> None:
    logits = np.array([[[0.0, 1.0], [5.0, 0.0]]], np.float32)

    text, confidence = decode_text_slots(logits, ("A", "B"))

    assert text == "BA"
    assert confidence == pytest.approx(1 / (1 + math.exp(-1)))


@st.composite
def boxes(draw: st.DrawFn) -> Detections:
    count = draw(st.integers(0, 25))
    corners = draw(numpy_st.arrays(np.float32, (count, 2), elements=st.integers(-20, 60)))
    sizes = draw(numpy_st.arrays(np.float32, (count, 2), elements=st.integers(1, 40)))
    confidence = draw(numpy_st.arrays(np.float32, (count,), elements=st.integers(1, 1000), unique=True)) / 1000
    class_id = draw(numpy_st.arrays(np.int32, (count,), elements=st.integers(0, 3)))
    return Detections(np.hstack((corners, corners + sizes)), confidence.astype(np.float32), class_id, tuple("abcd"))


THRESHOLD = 0.4567  # no quotient of small whole numbers, so that rounding decides nothing


@given(candidates=boxes(), across_classes=st.booleans())
def test_nms_keeps_exactly_what_the_greedy_rule_keeps(candidates: Detections, across_classes: bool) -> None:
    kept: list[int] = []
    for row in sorted(range(len(candidates.confidence)), key=lambda row: -candidates.confidence[row]):
        rivals = [one for one in kept if across_classes or candidates.class_id[one] == candidates.class_id[row]]
        if all(reference_iou(candidates.xyxy[one], candidates.xyxy[row]) <= THRESHOLD for one in rivals):
            kept.append(row)

    assert nms(candidates, iou=THRESHOLD, across_classes=across_classes).tolist() == kept


@given(candidates=boxes(), across_classes=st.booleans())
def test_nms_done_twice_changes_nothing(candidates: Detections, across_classes: bool) -> None:
    once = candidates.select(nms(candidates, iou=THRESHOLD, across_classes=across_classes))

    assert nms(once, iou=THRESHOLD, across_classes=across_classes).tolist() == list(range(len(once.confidence)))
