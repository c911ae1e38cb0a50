"""What all detectors' outputs have in common once they are boxes: the choice of the confident, and of one of doubles.

Confidence is filtered first: of some thousand places hardly a dozen remain, so that all later steps cost nothing.
"""

from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import Detections

__all__ = ["Float32", "best_classes", "corners", "detections", "nms"]

Float32 = NDArray[np.float32]

_MAX_CANDIDATES: Final = 1000
_MAX_PX: Final = 1e6
"""Farther out than any box of a picture, and near enough for all later arithmetic in float32."""


def best_classes(confidences: Float32, threshold: float) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32]:
    """Find the places, shape (classes, N), whose best class reaches the threshold: their indices, classes, confidences.

    A place with a NaN among its confidences reaches none.
    """
    places = np.flatnonzero(confidences.max(axis=0) >= threshold)
    class_id = confidences[:, places].argmax(axis=0)
    return places, class_id, confidences[class_id, places]


def corners(cxcywh: Float32) -> Float32:
    """Turn centres and sizes, shape (N, 4), into xyxy."""
    centre, half = cxcywh[:, :2], cxcywh[:, 2:] / 2
    return np.concatenate((centre - half, centre + half), axis=1)


def detections(xyxy: Float32, confidence: Float32, class_id: NDArray[Any], class_names: tuple[str, ...]) -> Detections:
    """Make detections of rows of equal number, at most a thousand, of those the most confident.

    Rows that are none are left out: a number that is not finite (comparisons with NaN would let such a box through
    everything), a box without area or with its corners the wrong way round, a class id beyond the names.
    """
    if len(confidence) > _MAX_CANDIDATES:
        best = np.argpartition(-confidence, _MAX_CANDIDATES)[:_MAX_CANDIDATES]
        xyxy, confidence, class_id = xyxy[best], confidence[best], class_id[best]
    is_finite = np.isfinite(xyxy).all(axis=1) & np.isfinite(confidence)
    bounded = np.clip(xyxy, -_MAX_PX, _MAX_PX).astype(np.float32)
    has_area = (bounded[:, 2:] > bounded[:, :2]).all(axis=1)
    kept = np.flatnonzero(is_finite & has_area & (class_id >= 0) & (class_id < len(class_names)))
    return Detections(
        bounded[kept],
        np.clip(confidence[kept], 0, 1).astype(np.float32, copy=False),
        class_id[kept].astype(np.int32),
        class_names,
    )


def nms(found: Detections, *, iou: float, across_classes: bool) -> NDArray[np.intp]:
    """Suppress boxes that overlap a more confident one by more than ``iou``, of the same class or of any.

    Returns:
        Indices of those that stay, the most confident first.

    Source:
        OpenCV's implementation: on 160 boxes 0.2 ms, where NumPy takes 1.5.
    """
    if not len(found):
        return np.empty(0, np.intp)
    xywh = found.xyxy.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    if not across_classes:
        # Moved apart by more than the widest spread, boxes of different classes cannot touch.
        xywh[:, 0] += found.class_id * (float(np.ptp(found.xyxy)) + 1.0)
    kept = cv2.dnn.NMSBoxes(cast("Any", xywh), cast("Any", found.confidence), 0.0, iou)  # arrays spare a list
    return np.asarray(kept, np.intp).reshape(-1)
