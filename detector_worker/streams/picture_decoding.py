"""One JPEG or PNG picture as a camera sends it, looked at before it is decoded."""

import struct
from typing import Final, cast

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from detector_worker.streams.picture_size import MAX_PIXELS, too_large
from detector_worker.streams.stream_errors import stream_error

__all__ = ["DamagedPictureError", "decode_picture"]

_MAX_SCANS: Final = 64
"""A progressive JPEG has about ten. Each goes over the whole picture again, and takes only 30 bytes to ask for."""
_JPEG_START: Final = b"\xff\xd8\xff"
_JPEG_SCAN: Final = b"\xff\xda"
_PNG_START: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


class DamagedPictureError(ValueError):
    """A picture that was hit on its way; the next one may be sound."""


def decode_picture(data: bytes | bytearray, *, where: str) -> NDArray[np.uint8]:
    """Decode a picture, whose size and effort are known from its header first; ``data`` is not copied.

    Args:
        data: JPEG, also progressive, or PNG: grey, 16-bit or with alpha as well.
        where: Names the camera in errors, without its password.

    Returns:
        Shape (H, W, 3), uint8 BGR; alpha is left out.

    Raises:
        DamagedPictureError: It begins like a picture, and cannot be decoded.
        StreamError: Of class ``corrupt``: it would take too much memory or time; of class ``codec``: it is neither.
    """
    if data.startswith(_JPEG_START):
        return _decode_jpeg(data, where)
    if data.startswith(_PNG_START):
        return _decode_png(data, where)
    raise stream_error("codec", "The answer is neither a JPEG nor a PNG picture", where=where)


def _decode_jpeg(data: bytes | bytearray, where: str) -> NDArray[np.uint8]:
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError as exc:
        raise DamagedPictureError(str(exc)) from exc
    _check_pixels(width, height, where)
    if data.count(_JPEG_SCAN) > _MAX_SCANS:
        raise stream_error("corrupt", f"The picture has over {_MAX_SCANS} scans, refused undecoded", where=where)
    try:
        return cast("NDArray[np.uint8]", simplejpeg.decode_jpeg(data, colorspace="BGR"))
    except ValueError as exc:
        raise DamagedPictureError(str(exc)) from exc


def _decode_png(data: bytes | bytearray, where: str) -> NDArray[np.uint8]:
    try:
        width, height = struct.unpack_from(">II", data, len(_PNG_START))
    except struct.error as exc:
        raise DamagedPictureError("it ends in its header") from exc
    _check_pixels(width, height, where)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise DamagedPictureError(exc.err) from exc
    if image is None or image.shape[:2] != (height, width):
        raise DamagedPictureError("it cannot be decoded")
    return cast("NDArray[np.uint8]", image)


def _check_pixels(width: int, height: int, where: str) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise too_large((width, height), where=where)
