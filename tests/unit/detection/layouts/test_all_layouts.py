"""What holds for every detector's layout, whatever the numbers are."""

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from detector_worker.core.entities import Detections
from detector_worker.detection.layouts import decode_boxes, decode_label, nms
from detector_worker.detection.letterbox import fit_letterbox, remove_letterbox
from detector_worker.models.model_reading import LetterboxMode
from detector_worker.models.pipeline_values import OutputLayout

HW: Final = (96, 160)
PLACES: Final = 12 * 20 + 6 * 10 + 3 * 5
NAMES: Final = ("a", "b", "c")
SHAPES: Final[list[tuple[OutputLayout, tuple[tuple[int, ...], ...]]]] = [
    ("yolov5", ((1, 3 * 21, 8),)),
    ("yolov8", ((1, 7, 40),)),
    ("yolox", ((1, PLACES, 8),)),
    ("end2end", ((1, 30, 6),)),
    ("ssd", ((1, 1, 30, 7),)),
    ("ssd", ((1, 30, 4), (1, 30, 3))),
    ("detr", ((1, 30, 4), (1, 30, 3))),
    ("detr", ((1, 30, 7),)),
    ("fastestdet", ((1, 8, 6, 10),)),
]
WILD: Final = [math.nan, math.inf, -math.inf, 3.4e38, -3.4e38, 1e-45, -0.0, 1e9, 0.0, 0.5, 1.0, 2.0, -1.0, 200.0]


@given(
    kind=st.sampled_from(SHAPES),
    seed=st.integers(0, 2**32 - 1),
    share_of_wild=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    threshold=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_whatever_the_numbers_are_boxes_are_finite_and_the_right_way_round(
    kind: tuple[OutputLayout, tuple[tuple[int, ...], ...]], seed: int, share_of_wild: float, threshold: float
) -> None:
    rng = np.random.default_rng(seed)
    outputs = tuple(rng.uniform(0, 1, shape).astype(np.float32) for shape in kind[1])
    for output in outputs:
        is_wild = rng.uniform(size=output.shape) < share_of_wild
        output[is_wild] = rng.choice(np.array(WILD, np.float32), is_wild.sum())

    found = decode_boxes(kind[0], outputs, NAMES, threshold, input_hw=HW)

    assert np.isfinite(found.xyxy).all()
    assert (found.xyxy[:, 2:] > found.xyxy[:, :2]).all()
    assert ((found.confidence >= threshold) & (found.confidence <= 1)).all()
    assert ((found.class_id >= 0) & (found.class_id < len(NAMES))).all()
    dtypes = [array.dtype.name for array in (found.xyxy, found.confidence, found.class_id)]
    assert dtypes == ["float32", "float32", "int32"]
    kept = found.select(nms(found, iou=0.5, across_classes=False))
    letterbox = fit_letterbox((0, 0, 1920, 1080), HW, "center")
    assert np.isfinite(remove_letterbox(kept.xyxy, letterbox)).all()


@given(
    layout=st.sampled_from(["classification", "textIndex", "textSlots", "textCtc"]),
    output=numpy_st.arrays(np.float32, (1, 5, 3), elements=st.sampled_from(WILD)),
)
def test_whatever_the_numbers_are_a_label_has_a_confidence(layout: OutputLayout, output: Any) -> None:
    names = NAMES if layout == "classification" else ("a", "", "_")
    values = output[:, 0] if layout == "classification" else output[:, :, 0] if layout == "textIndex" else output

    label, confidence = decode_label(layout, values, names)

    assert label is None or set(label) <= {*"abc_"}
    assert 0 <= confidence <= 1


Box = tuple[float, float, float, float]


def _yolov5(box: Box, class_id: int) -> Any:
    output = np.zeros((1, 63, 8))
    output[0, 40, :4], output[0, 40, 4], output[0, 40, 5 + class_id] = _cxcywh(box), 0.9, 1.0
    return (output,)


def _yolov8(box: Box, class_id: int) -> Any:
    output = np.zeros((1, 7, 40))
    output[0, :4, 17], output[0, 4 + class_id, 17] = _cxcywh(box), 0.9
    return (output,)


def _yolox(box: Box, class_id: int) -> Any:
    cx, cy, w, h = _cxcywh(box)
    output, row, column = np.zeros((1, PLACES, 8)), 3, 4  # of the cells of stride 16
    output[0, 12 * 20 + row * 10 + column, :4] = (cx / 16 - column, cy / 16 - row, math.log(w / 16), math.log(h / 16))
    output[0, 12 * 20 + row * 10 + column, 4:5], output[0, 12 * 20 + row * 10 + column, 5 + class_id] = 0.9, 1.0
    return (output,)


def _end2end(box: Box, class_id: int) -> Any:
    return (np.array([[(*box, 0.9, class_id), (0, 0, 0, 0, 0, 0)]]),)


def _ssd(box: Box, class_id: int) -> Any:
    return (np.array([[[(0, class_id, 0.9, *_shares(box)), (-1, 0, 0, 0, 0, 0, 0)]]]),)


def _ssd_pair(box: Box, class_id: int) -> Any:
    scores = np.zeros((1, 2, 3))
    scores[0, 1, class_id] = 0.9
    return np.array([[(0, 0, 1, 1), _shares(box)]]), scores


def _detr_pair(box: Box, class_id: int) -> Any:
    logits = np.full((1, 2, 3), -9.0)
    logits[0, 1, class_id] = math.log(9)
    return np.array([[(0.5, 0.5, 1, 1), _cxcywh(_shares(box))]]), logits


def _detr(box: Box, class_id: int) -> Any:
    output = np.zeros((1, 2, 7))
    output[0, 1, :4], output[0, 1, 4 + class_id] = _cxcywh(_shares(box)), 0.9
    return (output,)


def _fastestdet(box: Box, class_id: int) -> Any:
    cx, cy, w, h = _cxcywh(_shares(box))
    output, row, column = np.zeros((1, 8, 6, 10)), min(int(cy * 6), 5), min(int(cx * 10), 9)
    sizes = (math.log(w / (1 - w)), math.log(h / (1 - h)))
    output[0, :5, row, column] = (0.9, math.atanh(cx * 10 - column), math.atanh(cy * 6 - row), *sizes)
    output[0, 5 + class_id, row, column] = 0.9
    return (output,)


def _cxcywh(box: Box) -> Box:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]


def _shares(box: Box) -> Box:
    return box[0] / HW[1], box[1] / HW[0], box[2] / HW[1], box[3] / HW[0]


ENCODERS: Final[list[tuple[OutputLayout, Callable[[Box, int], Any]]]] = [
    ("yolov5", _yolov5),
    ("yolov8", _yolov8),
    ("yolox", _yolox),
    ("end2end", _end2end),
    ("ssd", _ssd),
    ("ssd", _ssd_pair),
    ("detr", _detr_pair),
    ("detr", _detr),
    ("fastestdet", _fastestdet),
]


@given(
    encoder=st.sampled_from(ENCODERS),
    mode=st.sampled_from(["center", "topLeft", "none"]),
    class_id=st.integers(0, 2),
    corner=st.tuples(st.floats(0, 800), st.floats(0, 500)),
    wh=st.tuples(st.floats(20, 400), st.floats(20, 180)),
)
def test_a_box_of_the_frame_comes_back_through_every_layout_and_letterbox(
    encoder: tuple[OutputLayout, Callable[[Box, int], Any]],
    mode: LetterboxMode,
    class_id: int,
    corner: tuple[float, float],
    wh: tuple[float, float],
) -> None:
    box = np.array((*corner, corner[0] + wh[0], corner[1] + wh[1]))
    letterbox = fit_letterbox((0, 0, 1280, 720), HW, mode)
    x1, y1, x2, y2 = box * np.tile(np.array(letterbox.content_wh) / (1280, 720), 2) + np.tile(letterbox.pad_xy, 2)
    outputs = tuple(output.astype(np.float32) for output in encoder[1]((x1, y1, x2, y2), class_id))

    found = decode_boxes(encoder[0], outputs, NAMES, 0.5, input_hw=HW)

    assert [result.class_name for result in found.results(0)] == [NAMES[class_id]]
    assert found.confidence[0] == pytest.approx(0.9, abs=1e-5)
    np.testing.assert_allclose(remove_letterbox(found.xyxy, letterbox)[0], box, atol=0.05)


@pytest.mark.parametrize("column", range(5))
@pytest.mark.parametrize("wild", [math.inf, -math.inf, math.nan])
def test_a_box_with_a_number_that_is_none_is_left_out_not_mended(column: int, wild: float) -> None:
    output = np.array([[(10, 20, 30, 40, 0.9, 1), (10, 20, 30, 40, 0.8, 1)]], np.float32)
    output[0, 0, column] = wild

    assert decode_boxes("end2end", (output,), NAMES, 0.5, input_hw=HW).confidence.tolist() == pytest.approx([0.8])


def test_of_too_many_boxes_the_most_confident_stay() -> None:
    output = np.full((1, 5, 3000), 10, np.float32)
    output[0, 4] = np.random.default_rng(4).permutation(np.linspace(0.5, 1, 3000))

    found = decode_boxes("yolov8", (output,), ("a",), 0.5, input_hw=HW)

    assert len(found.confidence) == 1000
    assert found.confidence.min() >= np.sort(output[0, 4])[-1000]


def reference_iou(one: Any, other: Any) -> float:
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = width * height
    union = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared
    return shared / union if union > 0 else 0.0


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


@given(candidates=boxes(), across_classes=st.booleans(), data=st.data())
def test_nms_keeps_the_same_in_any_order(candidates: Detections, across_classes: bool, data: st.DataObject) -> None:
    order = np.array(data.draw(st.permutations(range(len(candidates)))), np.intp)

    kept = nms(candidates.select(order), iou=THRESHOLD, across_classes=across_classes)

    assert order[kept].tolist() == nms(candidates, iou=THRESHOLD, across_classes=across_classes).tolist()


@given(candidates=boxes())
def test_nms_keeps_the_most_confident_of_each_class_and_leaves_no_double(candidates: Detections) -> None:
    left = candidates.select(nms(candidates, iou=THRESHOLD, across_classes=False))

    for class_id in set(candidates.class_id.tolist()):
        own = left.select(left.class_id == class_id)
        assert own.confidence.max() == candidates.confidence[candidates.class_id == class_id].max()
        for row in range(len(own)):
            assert all(reference_iou(own.xyxy[row], own.xyxy[one]) <= THRESHOLD for one in range(row))
