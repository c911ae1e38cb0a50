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
_QUALITY_FLAGS: Final = {"jpeg": cv2.IMWRITE_JPEG_QUALITY, "webp": cv2.IMWRITE_WEBP_QUALITY}


def box_region(box: BoundingBox, *, padding: float = 0.0) -> Region:
    """Return the whole pixels that a box touches; ``padding`` on each side is a fraction of its width and height."""
    pad_x, pad_y = (padding * side for side in box.wh)
    x1, y1 = math.floor(box.x1 - pad_x), math.floor(box.y1 - pad_y)
    return x1, y1, math.ceil(box.x2 + pad_x), math.ceil(box.y2 + pad_y)


def crop_region_from_frame(frame: Frame, box: BoundingBox | None, *, padding: float = 0.0) -> NDArray[np.uint8]:
    """Return a view of a box of the full-resolution frame, or of all of it; shape (H, W, 3), uint8 BGR."""
    return frame.bgr() if box is None else frame.crop(box_region(box, padding=padding))


def compress_image(image: NDArray[np.uint8], image_format: ImageFormat, *, quality: int) -> bytes:
    """Compress a BGR picture; ``quality`` is 1 to 100, and means nothing to PNG."""
    flags = [_QUALITY_FLAGS[image_format], quality] if image_format in _QUALITY_FLAGS else []
    try:
        is_encoded, buffer = cv2.imencode(f".{image_format}", image, flags)
        if not is_encoded:
            raise cv2.error("the encoder gave nothing")
    except cv2.error as exc:
        where = f"a picture of {image.shape[1]} x {image.shape[0]} as {image_format}"
        raise ActionExecutionError(f"OpenCV: {exc}", where=where, mend="Save another region or format.") from exc
    return buffer.tobytes()
