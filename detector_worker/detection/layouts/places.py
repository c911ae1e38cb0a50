"""Detectors that answer once for every place of a grid over the picture: YOLOv5, YOLOv8 and its kin, YOLOX, FastestDet.

Each function takes ``(output,)``, the names of the classes, a threshold and the input's (height, width), and returns
boxes in pixels of the input.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import Detections
from detector_worker.detection.layouts.candidates import Float32, best_classes, corners, detections

__all__ = ["decode_fastestdet", "decode_yolov5", "decode_yolov8", "decode_yolox"]

Hw = tuple[int, int]


def decode_yolov8(outputs: tuple[Float32, ...], class_names: tuple[str, ...], threshold: float, _hw: Hw) -> Detections:
    """Decode YOLOv8, 9 and 11: shape (1, 4 + classes, N); rows cx, cy, w, h, then one confidence a class.

    Rows beyond the classes, such as the coefficients of masks, are not read.

    Source:
        The Ultralytics export format as its documentation describes it.
    """
    rows = outputs[0][0]
    places, class_id, confidence = best_classes(rows[4 : 4 + len(class_names)], threshold)
    return detections(corners(rows[:4, places].T), confidence, class_id, class_names)


def decode_yolov5(outputs: tuple[Float32, ...], class_names: tuple[str, ...], threshold: float, _hw: Hw) -> Detections:
    """Decode YOLOv5, 6 and 7: shape (1, N, 5 + classes); cx, cy, w, h, objectness, confidences.

    Source:
        The YOLOv5 export format as its documentation describes it.
    """
    rows = outputs[0][0]
    places, class_id, confidence = _best_rows(rows, len(class_names), threshold)
    return detections(corners(rows[places, :4]), confidence, class_id, class_names)


def decode_yolox(outputs: tuple[Float32, ...], class_names: tuple[str, ...], threshold: float, hw: Hw) -> Detections:
    """Decode YOLOX's raw output: shape (1, N, 5 + classes); per cell x, y, w, h, objectness, confidences.

    N is what strides 8, 16 and 32 make of the input; confidences are through the sigmoid already.

    Source:
        Ge et al., YOLOX (2021), section 2.1: xy = (offset + cell) * stride, wh = exp(size) * stride.
    """
    rows = outputs[0][0]
    places, class_id, confidence = _best_rows(rows, len(class_names), threshold)
    rows, grid = rows[places, :4], _yolox_grid(hw)[places]
    centre = (rows[:, :2] + grid[:, :2]) * grid[:, 2:]
    return detections(
        corners(np.hstack((centre, np.exp(rows[:, 2:]) * grid[:, 2:]))), confidence, class_id, class_names
    )


def decode_fastestdet(
    outputs: tuple[Float32, ...], class_names: tuple[str, ...], threshold: float, hw: Hw
) -> Detections:
    """Decode FastestDet: shape (1, 5 + classes, rows, columns); per cell objectness, x, y, w, h, confidences.

    The centre lies up to one cell before or after its own cell's corner, the size is a share of the input.

    Source:
        The format as the project's examples show it: xy = (tanh(offset) + cell) / cells, wh = sigmoid(size),
        confidence = objectness ^ 0.6 * class ^ 0.4.
    """
    (rows, columns), cells = outputs[0].shape[2:], outputs[0][0].reshape(outputs[0].shape[1], -1)
    # A class is at most 1 sure, so that most cells are done with here.
    alive = np.flatnonzero(cells[0] >= threshold ** (1 / 0.6))
    cells = cells[:, alive]
    places, class_id, confidence = best_classes(cells[0] ** 0.6 * cells[5 : 5 + len(class_names)] ** 0.4, threshold)
    x, y, width, height = cells[1:5, places]
    row, column = np.divmod(alive[places], columns)
    shares = ((np.tanh(x) + column) / columns, (np.tanh(y) + row) / rows, _sigmoid(width), _sigmoid(height))
    xyxy = corners(np.stack(shares, axis=1)) * (hw[1], hw[0], hw[1], hw[0])
    return detections(xyxy, confidence, class_id, class_names)


def _best_rows(rows: Float32, class_count: int, threshold: float) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32]:
    """As `best_classes`, of rows with an objectness before their classes, by which each of them is to be multiplied."""
    # A confidence cannot exceed its row's objectness: most rows are done with here.
    alive = np.flatnonzero(rows[:, 4] >= threshold)
    places, class_id, confidence = best_classes((rows[alive, 5 : 5 + class_count] * rows[alive, 4:5]).T, threshold)
    return alive[places], class_id, confidence


def _sigmoid(values: Float32) -> Float32:
    return np.asarray(1 / (1 + np.exp(-values)), np.float32)


@lru_cache(maxsize=32)
def _yolox_grid(hw: Hw) -> Float32:
    """Return (N, 3): x and y of every cell, and its stride."""
    levels = []
    for stride in (8, 16, 32):
        y, x = np.mgrid[: hw[0] // stride, : hw[1] // stride]
        levels.append(np.stack((x.ravel(), y.ravel(), np.full(x.size, stride)), axis=1))
    return np.concatenate(levels).astype(np.float32)
