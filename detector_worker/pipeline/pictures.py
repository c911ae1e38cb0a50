"""Cutting a region out of a frame, and compressing it. Both block: they belong into a thread."""

import math
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox
from detector_worker.core.exceptions import ActionExecutionError
from detector_worker.core.frame import Frame, Region

__all__ = ["EXTENSIONS", "ImageFormat", "box_region", "compress_image", "crop_region_from_frame"]

ImageFormat = Literal["jpeg", "png", "webp"]

EXTENSIONS: Final[dict[ImageFormat, str]] = {"jpeg": "jpg", "png": "png", "webp": "webp"}
"""The extension of a file of each format."""
_QUALITY_FLAGS: Final[dict[ImageFormat, int]] = {"jpeg": cv2.IMWRITE_JPEG_QUALITY, "webp": cv2.IMWRITE_WEBP_QUALITY}


def box_region(box: BoundingBox, wh: tuple[int, int], *, padding: float = 0.0) -> Region:
    """Return the whole pixels that a box touches, clipped to the frame.

    Args:
        box: Pixels of the full frame.
        wh: Width and height of the frame, pixels.
        padding: Added on each side, as a fraction of the box's width and height.

    Returns:
        x1, y1, x2, y2; empty where the box lies outside the frame.
    """
    pad_x, pad_y = (padding * side for side in box.wh)
    return (
        max(0, math.floor(box.x1 - pad_x)),
        max(0, math.floor(box.y1 - pad_y)),
        min(wh[0], math.ceil(box.x2 + pad_x)),
        min(wh[1], math.ceil(box.y2 + pad_y)),
    )


def crop_region_from_frame(frame: Frame, box: BoundingBox | None, *, padding: float = 0.0) -> NDArray[np.uint8]:
    """Return a view of a box of the full-resolution frame, or of all of it; shape (H, W, 3), uint8 BGR.

    Raises:
        ActionExecutionError: The box holds no pixel of the frame.
    """
    if box is None:
        return frame.bgr()
    image = frame.crop(box_region(box, frame.wh, padding=padding))
    if image.size == 0:
        raise ActionExecutionError(
            f"The region {box} holds no pixel of the frame of {frame.wh[0]} x {frame.wh[1]}",
            where=f"camera {frame.camera_id}, frame {frame.frame_id}",
            mend="Check the detector's boxes with `detector-worker run --annotate`.",
        )
    return image


def compress_image(image: NDArray[np.uint8], image_format: ImageFormat, *, quality: int) -> bytes:
    """Compress a picture.

    Args:
        image: Shape (H, W, 3), uint8 BGR.
        image_format: PNG is lossless, and ``quality`` means nothing to it.
        quality: 1 to 100.

    Raises:
        ActionExecutionError: The encoder refused, such as for a picture too large for the format.
    """
    flags = [_QUALITY_FLAGS[image_format], quality] if image_format in _QUALITY_FLAGS else []
    try:
        is_encoded, buffer = cv2.imencode(f".{EXTENSIONS[image_format]}", image, flags)
        if not is_encoded:
            raise cv2.error("the encoder gave nothing")
    except cv2.error as exc:
        height, width = image.shape[:2]
        raise ActionExecutionError(
            f"OpenCV: {exc}",
            where=f"a picture of {width} x {height} as {image_format}",
            mend="Save a smaller region, or choose another format.",
        ) from exc
    return buffer.tobytes()
