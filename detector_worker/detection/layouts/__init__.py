"""What networks answer, turned into boxes, classes and texts: pure, vectorised, one small function a layout."""

from detector_worker.detection.layouts.candidates import Float32, nms
from detector_worker.detection.layouts.decoding import decode_boxes, decode_label

__all__ = ["Float32", "decode_boxes", "decode_label", "nms"]
