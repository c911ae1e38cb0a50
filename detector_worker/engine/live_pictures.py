"""A camera's newest picture as JPEG, as it came or with what was seen in it."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import Detections, StreamStatus
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.detection.overlay import draw_overlay
from detector_worker.engine.lane import Lane

__all__ = ["annotated_jpeg", "jpeg", "no_picture"]

_QUALITY: Final = 85


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode a picture of shape (H, W, 3), uint8 BGR; blocks."""
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return encoded.tobytes()


def annotated_jpeg(lane: Lane, frame: Frame, tracked: Detections) -> bytes:
    """Draw a frame that a lane has analysed, with what was tracked in it; blocks."""
    ignored = lane.spec.options.ignore_masks
    return jpeg(draw_overlay(frame, tracked, lane.sayings.by_track, region=lane.spec.crop, ignored=ignored))


def no_picture(status: StreamStatus, *, is_seen: bool) -> StreamError:
    """Say why there is no picture of a camera yet, or none that was analysed."""
    where = f"camera {status.camera_id}"
    if is_seen:
        return StreamError("No frame has been analysed yet", where=where, mend="Wait a moment, or ask without boxes.")
    what, mend = f"No frame yet: {status.reason or status.state}", "Wait a moment, or look at its address."
    return StreamError(what, where=where, mend=mend)
