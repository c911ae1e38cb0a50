"""Which function decodes which layout."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from detector_worker.core.entities import Detections
from detector_worker.detection.layouts.candidates import Float32
from detector_worker.detection.layouts.labels import (
    Label,
    decode_classification,
    decode_text_ctc,
    decode_text_index,
    decode_text_slots,
)
from detector_worker.detection.layouts.lists import decode_detr, decode_end2end, decode_ssd
from detector_worker.detection.layouts.places import (
    decode_fastestdet,
    decode_yolov5,
    decode_yolov8,
    decode_yolox,
)
from detector_worker.models.pipeline_values import OutputLayout

__all__ = ["decode_boxes", "decode_label"]

_BOXES: Final[
    Mapping[OutputLayout, Callable[[tuple[Float32, ...], tuple[str, ...], float, tuple[int, int]], Detections]]
] = {
    "yolov5": decode_yolov5,
    "yolov8": decode_yolov8,
    "yolox": decode_yolox,
    "end2end": decode_end2end,
    "ssd": decode_ssd,
    "detr": decode_detr,
    "fastestdet": decode_fastestdet,
}
_LABELS: Final[Mapping[OutputLayout, Callable[[Float32, tuple[str, ...]], Label]]] = {
    "classification": decode_classification,
    "textIndex": decode_text_index,
    "textSlots": decode_text_slots,
    "textCtc": decode_text_ctc,
}


def decode_boxes(
    layout: OutputLayout,
    outputs: tuple[Float32, ...],
    class_names: tuple[str, ...],
    threshold: float,
    *,
    input_hw: tuple[int, int],
) -> Detections:
    """Decode a detector's outputs into boxes in pixels of its input, of places or objects that reach the threshold.

    Whatever the numbers are, all of the result's are finite, boxes have an area, and there are at most a thousand.
    """
    with np.errstate(all="ignore"):  # what becomes infinite or NaN is left out at the end
        return _BOXES[layout](outputs, class_names, threshold, input_hw)


def decode_label(layout: OutputLayout, output: Float32, class_names: tuple[str, ...]) -> Label:
    """Decode a classifier's or a text reader's output; a class without a name is none."""
    with np.errstate(all="ignore"):
        return _LABELS[layout](output, class_names)
