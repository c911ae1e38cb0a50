import math
from typing import Any

import numpy as np
import pytest

from detector_worker.core.entities import Detections
from detector_worker.detection.layouts import decode_boxes


def rows(*values: tuple[float, ...]) -> Any:
    return np.array([values], np.float32)


def told(found: Detections) -> list[tuple[str, float, list[float]]]:
    return [
        (one.class_name, round(one.confidence, 4), [round(side, 2) for side in found.xyxy[row].tolist()])
        for row, one in enumerate(found.results(0))
    ]


def test_end2end_takes_the_rows_that_are_sure_enough() -> None:
    output = rows((10, 20, 30, 40, 0.9, 1), (1, 2, 3, 4, 0.4, 0), (5, 6, 7, 8, 0.5, 0))

    found = decode_boxes("end2end", (output,), ("a", "b"), 0.5, input_hw=(64, 64))

    assert told(found) == [("b", 0.9, [10, 20, 30, 40]), ("a", 0.5, [5, 6, 7, 8])]


def test_end2end_does_not_read_what_stands_beyond_the_class() -> None:
    output = rows((10, 20, 30, 40, 0.9, 1, 7, 7, 7))

    assert told(decode_boxes("end2end", (output,), ("a", "b"), 0.5, input_hw=(64, 64)))[0][0] == "b"


def test_ssd_ends_at_the_first_negative_image_and_its_boxes_are_shares_of_the_input() -> None:
    output = rows(
        (0, 1, 0.9, 0.1, 0.2, 0.5, 0.6),
        (0, 2, 0.3, 0.1, 0.2, 0.5, 0.6),
        (0, 2, 0.8, 0.0, 0.0, 1.0, 1.0),
        (-1, 0, 0.0, 0.0, 0.0, 0.0, 0.0),
        (0, 1, 0.9, 0.1, 0.2, 0.5, 0.6),
    )[np.newaxis]

    found = decode_boxes("ssd", (output,), ("", "vehicle", "plate"), 0.5, input_hw=(100, 200))

    assert told(found) == [("vehicle", 0.9, [20, 20, 100, 60]), ("plate", 0.8, [0, 0, 200, 100])]


def test_ssd_of_two_outputs_passes_over_the_background() -> None:
    boxes = rows((0.1, 0.2, 0.5, 0.6), (0, 0, 1, 1), (0.2, 0.2, 0.4, 0.4))
    scores = rows((0.5, 0.4, 0.1), (0.9, 0.05, 0.05), (0.0, 0.0, 1.0))

    found = decode_boxes("ssd", (boxes, scores), ("", "a", "b"), 0.3, input_hw=(100, 200))

    assert told(found) == [("a", 0.4, [20, 20, 100, 60]), ("b", 1.0, [40, 20, 80, 40])]


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_detr_finds_the_same_in_logits_and_in_confidences(threshold: float) -> None:
    rng = np.random.default_rng(8)
    boxes, logits = (
        rng.uniform(0.2, 0.4, (1, 50, 4)).astype(np.float32),
        rng.normal(0, 2, (1, 50, 7)).astype(np.float32),
    )
    confidences = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)

    of_logits, of_confidences = [
        decode_boxes("detr", (boxes, classes), tuple("abcdefg"), threshold, input_hw=(64, 64))
        for classes in (logits, confidences)
    ]

    expected = sorted((value for value in confidences.ravel().tolist() if value >= threshold), reverse=True)[:50]
    np.testing.assert_allclose(sorted(of_logits.confidence.tolist(), reverse=True), expected, rtol=1e-5)
    np.testing.assert_allclose(sorted(of_confidences.confidence.tolist(), reverse=True), expected, rtol=1e-5)


def test_detr_gives_one_box_for_each_sure_class_of_a_query_and_no_more_than_queries() -> None:
    boxes = rows((0.5, 0.5, 0.2, 0.4), (0.25, 0.25, 0.5, 0.5))
    logits = rows((2.0, 1.0, 0.5), (-9.0, -9.0, -9.0))

    found = decode_boxes("detr", (boxes, logits), ("a", "b", "c"), 0.3, input_hw=(100, 200))

    assert sorted(told(found)) == [
        ("a", round(1 / (1 + math.exp(-2)), 4), [80, 30, 120, 70]),
        ("b", round(1 / (1 + math.exp(-1)), 4), [80, 30, 120, 70]),
    ]


def test_detr_in_one_output_gives_the_best_class_of_each_box() -> None:
    output = rows((0.5, 0.5, 0.2, 0.4, 0.6, 0.7), (0.25, 0.25, 0.5, 0.5, 0.2, 0.1))

    found = decode_boxes("detr", (output,), ("a", "b"), 0.5, input_hw=(100, 200))

    assert told(found) == [("b", 0.7, [80, 30, 120, 70])]


@pytest.mark.parametrize("class_id", [-1, 2, 1e9, math.nan, math.inf, -math.inf])
def test_a_class_beyond_the_names_is_left_out(class_id: float) -> None:
    end2end = rows((10, 20, 30, 40, 0.9, class_id), (10, 20, 30, 40, 0.9, 1))
    ssd = rows((0, class_id, 0.9, 0.1, 0.1, 0.5, 0.5), (0, 1, 0.9, 0.1, 0.1, 0.5, 0.5))[np.newaxis]

    assert len(decode_boxes("end2end", (end2end,), ("a", "b"), 0.5, input_hw=(64, 64))) == 1
    assert len(decode_boxes("ssd", (ssd,), ("a", "b"), 0.5, input_hw=(64, 64))) == 1


def test_detr_with_chosen_classes_gives_each_sure_box_its_class() -> None:
    output = np.array([[[0.5, 0.5, 0.2, 0.4, 0.9, 2], [0.1, 0.1, 0.1, 0.1, 0.2, 0]]], np.float32)

    found = decode_boxes("detr", (output,), ("a", "b", "c"), 0.5, input_hw=(100, 200))

    assert found.xyxy[0].tolist() == pytest.approx([80, 30, 120, 70])
    assert found.class_id.tolist() == [2]
    assert found.confidence.tolist() == pytest.approx([0.9])
