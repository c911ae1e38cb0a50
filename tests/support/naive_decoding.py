"""What the real models answer, read a second time: slowly, number by number, after the models' own descriptions.

Nothing here is shared with the worker, so that a mistake would have to be made twice. Only where a picture is fitted
into an input is the convention ours: sizes are rounded, and each axis has the scale that comes of it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Numbers = NDArray[np.floating[Any]]


class NaiveBox(NamedTuple):
    """A box in pixels of the picture."""

    class_id: int
    confidence: float
    x1: float
    y1: float
    x2: float
    y2: float


class Fitted(NamedTuple):
    """A picture in the size of a model's input, and how many of its pixels one of the picture's became."""

    image: Image
    scale_x: float
    scale_y: float


Decoding = Callable[[Numbers, Image, float], list[NaiveBox]]
"""Of an answer, the picture as it was, and a threshold."""

_GREY: Final = 114


def stretched(image: Image, wh: tuple[int, int]) -> Fitted:
    """Resize without regard to proportions, as SSD, FastestDet and the classifiers want it."""
    small = np.asarray(cv2.resize(image, wh, interpolation=cv2.INTER_LINEAR), np.uint8)
    return Fitted(small, wh[0] / image.shape[1], wh[1] / image.shape[0])


def at_top_left(image: Image, side: int) -> Fitted:
    """Keep the proportions and leave grey at the right or below, as YOLOX wants it."""
    scale = min(side / image.shape[1], side / image.shape[0])
    width, height = round(image.shape[1] * scale), round(image.shape[0] * scale)
    fitted = stretched(image, (width, height))
    canvas = np.full((side, side, 3), _GREY, np.uint8)
    canvas[:height, :width] = fitted.image
    return Fitted(canvas, fitted.scale_x, fitted.scale_y)


def yolox_boxes(answer: Numbers, image: Image, threshold: float) -> list[NaiveBox]:
    """YOLOX with input 416: its demo walks strides 8, 16, 32, rows of cells, cells; x, y, w, h, objectness, classes."""
    fitted, boxes, place = at_top_left(image, 416), [], 0
    for stride in (8, 16, 32):
        for row in range(416 // stride):
            for column in range(416 // stride):
                values = [float(value) for value in answer[0, place, :5]]
                place += 1
                if values[4] < threshold:  # times a class's confidence it is less still
                    continue
                classes = [float(value) * values[4] for value in answer[0, place - 1, 5:]]
                class_id = classes.index(max(classes))
                centre_x, centre_y = (values[0] + column) * stride, (values[1] + row) * stride
                half_w, half_h = math.exp(values[2]) * stride / 2, math.exp(values[3]) * stride / 2
                box = (centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h)
                if classes[class_id] >= threshold:
                    boxes.append(_back(box, fitted, image, class_id, classes[class_id]))
    return boxes


def fastestdet_boxes(answer: Numbers, image: Image, threshold: float) -> list[NaiveBox]:
    """FastestDet: its evaluation takes tanh of the offset, sigmoid of the size, objectness ^ 0.6 x class ^ 0.4."""
    boxes = []
    for row in range(22):
        for column in range(22):
            objectness, x, y, width, height, *classes = (float(value) for value in answer[0, :, row, column])
            class_id = classes.index(max(classes))
            confidence = objectness**0.6 * classes[class_id] ** 0.4
            if confidence < threshold:
                continue
            centre_x, centre_y = (math.tanh(x) + column) / 22, (math.tanh(y) + row) / 22
            half_w, half_h = 0.5 / (1 + math.exp(-width)), 0.5 / (1 + math.exp(-height))
            box = (centre_x - half_w, centre_y - half_h, centre_x + half_w, centre_y + half_h)
            boxes.append(_back(box, Fitted(image, 1 / image.shape[1], 1 / image.shape[0]), image, class_id, confidence))
    return boxes


def ssd_boxes(answer: Numbers, image: Image, threshold: float) -> list[NaiveBox]:
    """Rows of picture, class, confidence, x1, y1, x2, y2 in shares of the picture; the first picture below 0 ends."""
    boxes = []
    for row in answer[0, 0]:
        picture, class_id, confidence, *shares = (float(value) for value in row)
        if picture < 0:
            break
        if confidence >= threshold:
            scale = Fitted(image, 1 / image.shape[1], 1 / image.shape[0])
            boxes.append(_back(shares, scale, image, round(class_id), confidence))
    return boxes


def suppressed(boxes: Sequence[NaiveBox], *, iou: float, across_classes: bool) -> list[NaiveBox]:
    """Keep the surest box, drop what overlaps it by more, and so on."""
    kept: list[NaiveBox] = []
    for box in sorted(boxes, key=lambda one: -one.confidence):
        rivals = [one for one in kept if across_classes or one.class_id == box.class_id]
        if all(overlap(box, rival) <= iou for rival in rivals):
            kept.append(box)
    return kept


def overlap(one: NaiveBox, other: NaiveBox) -> float:
    """Intersection over union."""
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box.x2 - box.x1) * (box.y2 - box.y1) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def slot_text(answer: Numbers, alphabet: str) -> tuple[str | None, float]:
    """The surest symbol of each slot, ``_`` for none; as sure as the least sure of them."""
    text, sure = "", 1.0
    for slot in answer[0]:
        shares = [float(share) for share in slot]
        text += alphabet[shares.index(max(shares))]
        sure = min(sure, max(shares))
    return text.replace("_", "") or None, sure


def index_text(answer: Numbers, symbols: Sequence[str]) -> str | None:
    """One symbol after another until -1."""
    text = ""
    for number in answer[0]:
        if number < 0:
            break
        text += symbols[int(number)]
    return text or None


def _back(xyxy: Sequence[float], fitted: Fitted, image: Image, class_id: int, confidence: float) -> NaiveBox:
    """Bring a box into the picture's pixels, and cut off what lies outside."""
    x1, x2 = (min(max(x / fitted.scale_x, 0.0), image.shape[1]) for x in (xyxy[0], xyxy[2]))
    y1, y2 = (min(max(y / fitted.scale_y, 0.0), image.shape[0]) for y in (xyxy[1], xyxy[3]))
    return NaiveBox(class_id, confidence, x1, y1, x2, y2)
