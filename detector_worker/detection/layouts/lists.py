"""Detectors that answer with a short list of objects: end-to-end YOLO, SSD, and the DETR family.

Each function takes the outputs in their order, the names of the classes, a threshold and the input's (height, width),
and returns boxes in pixels of the input.
"""

import math

import numpy as np

from detector_worker.core.entities import Detections
from detector_worker.detection.layouts.candidates import Float32, best_classes, corners, detections

__all__ = ["decode_detr", "decode_end2end", "decode_ssd"]

Hw = tuple[int, int]


def decode_end2end(outputs: tuple[Float32, ...], class_names: tuple[str, ...], threshold: float, _hw: Hw) -> Detections:
    """Decode YOLOv10, 26 and exports with their own suppression: shape (1, N, 6 or more); xyxy, confidence, class.

    Source:
        The Ultralytics export format as its documentation describes it.
    """
    rows = outputs[0][0]
    rows = rows[rows[:, 4] >= threshold]
    return detections(rows[:, :4], rows[:, 4], np.rint(rows[:, 5]), class_names)


def decode_ssd(outputs: tuple[Float32, ...], class_names: tuple[str, ...], threshold: float, hw: Hw) -> Detections:
    """Decode SSD, whose boxes are xyxy in shares of the input.

    Either one output (1, 1, N, 7) of image, class, confidence and box, which the first negative image ends; or boxes
    (1, N, 4) and confidences (1, N, classes), where a class without a name, such as the background, is none.

    Source:
        OpenVINO's documentation of the operation DetectionOutput.
    """
    if len(outputs) == 1:
        rows = outputs[0][0, 0]
        past_end = np.flatnonzero(rows[:, 0] < 0)
        rows = rows[: past_end[0]] if len(past_end) else rows
        rows = rows[rows[:, 2] >= threshold]
        shares, confidence, class_id = rows[:, 3:7], rows[:, 2], np.rint(rows[:, 1])
    else:
        named = np.flatnonzero([bool(name) for name in class_names])
        places, best, confidence = best_classes(outputs[1][0].T[named], threshold)
        shares, class_id = outputs[0][0, places], named[best]
    return detections(shares * (hw[1], hw[0], hw[1], hw[0]), confidence, class_id, class_names)


def decode_detr(outputs: tuple[Float32, ...], class_names: tuple[str, ...], threshold: float, hw: Hw) -> Detections:
    """Decode RT-DETR and RF-DETR, whose boxes are cx, cy, w, h in shares of the input.

    Either boxes (1, N, 4) and (1, N, classes) of logits or of confidences: the N surest of all pairs of a box and a
    class; or one output as Ultralytics exports it: (1, N, 4 + classes) with confidences, of which the best counts, or,
    where there are not two classes, (1, N, 6) with the confidence and the class of each box.

    Source:
        Zhao et al., RT-DETR (2023), and the post-processing that its authors describe: sigmoid, then the top N.
    """
    if len(outputs) == 1 and outputs[0].shape[2] == 6 and len(class_names) != 2:
        boxes, confidences, classes = outputs[0][0, :, :4], outputs[0][0, :, 4], outputs[0][0, :, 5]
        places = np.flatnonzero(confidences >= threshold)
        class_id, confidence = np.rint(classes[places]), confidences[places]
    elif len(outputs) == 1:
        boxes = outputs[0][0, :, :4]
        places, class_id, confidence = best_classes(outputs[0][0, :, 4 : 4 + len(class_names)].T, threshold)
    else:
        boxes, classes = outputs[0][0], outputs[1][0]
        are_logits = not (classes.min(initial=0) >= 0 and classes.max(initial=0) <= 1)
        flat = np.flatnonzero(classes >= (_logit(threshold) if are_logits else threshold))
        confidence = classes.ravel()[flat]
        if len(flat) > len(boxes):
            best = np.argpartition(-confidence, len(boxes))[: len(boxes)]
            flat, confidence = flat[best], confidence[best]
        places, class_id = np.divmod(flat, classes.shape[1])
        confidence = np.asarray(1 / (1 + np.exp(-confidence)), np.float32) if are_logits else confidence
    xyxy = corners(boxes[places]) * (hw[1], hw[0], hw[1], hw[0])
    return detections(xyxy, confidence, class_id, class_names)


def _logit(confidence: float) -> float:
    """What the sigmoid turns into a confidence."""
    return math.log(confidence / (1 - confidence)) if 0 < confidence < 1 else math.copysign(math.inf, confidence - 0.5)
