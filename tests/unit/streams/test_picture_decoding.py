import struct
import subprocess
import sys
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detector_worker.core.exceptions import StreamError
from detector_worker.streams.picture_decoding import DamagedPictureError, decode_picture

_RED = np.full((48, 64, 3), (0, 0, 255), np.uint8)
_PROGRESSIVE = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]


def _encoded(kind: str, image: NDArray[np.integer[Any]] = _RED, options: list[int] | None = None) -> bytes:
    return bytes(cv2.imencode(kind, image, options or [])[1])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _grey_png(width: int, height: int) -> bytes:
    """A sound, black picture, which packs to a thousandth."""
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _claiming(jpeg: bytes, width: int, height: int) -> bytes:
    """The same JPEG with another size in its frame header, baseline or progressive."""
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


@pytest.mark.parametrize(
    "data", [_encoded(".jpg"), _encoded(".jpg", options=_PROGRESSIVE), _encoded(".png"), bytearray(_encoded(".png"))]
)
def test_jpeg_and_png_become_bgr(data: bytes | bytearray) -> None:
    image = decode_picture(data, where="camera gate")

    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - _RED).max() < 8


@pytest.mark.parametrize(
    "image",
    [
        np.full((48, 64), 100, np.uint8),
        np.full((48, 64), 100 * 257, np.uint16),
        np.full((48, 64, 3), 100 * 257, np.uint16),
        np.full((48, 64, 4), (100, 100, 100, 7), np.uint8),
    ],
)
def test_every_kind_of_png_becomes_bgr(image: NDArray[np.integer[Any]]) -> None:
    decoded = decode_picture(_encoded(".png", image), where="camera gate")

    assert decoded.shape == (48, 64, 3)
    assert decoded.dtype == np.uint8
    assert np.all(decoded == 100)


def test_a_grey_jpeg_becomes_bgr() -> None:
    assert decode_picture(_encoded(".jpg", np.full((48, 64), 100, np.uint8)), where="gate").shape == (48, 64, 3)


@pytest.mark.parametrize(
    "data",
    [
        _encoded(".jpg")[:200],
        _encoded(".jpg")[:-20],
        _encoded(".png")[:-40],
        _encoded(".png")[:18],
        _encoded(".png").replace(b"IDAT", b"IDAX"),
        b"\xff\xd8\xff",
    ],
)
def test_what_begins_like_a_picture_and_is_none_is_damaged(data: bytes) -> None:
    with pytest.raises(DamagedPictureError):
        decode_picture(data, where="camera gate")


@pytest.mark.parametrize("data", [b"", b"<html>Login</html>", b"GIF89a", b"\x89PNG\r\n\x1a\n\x00\x00\x00\x04gAMA"])
def test_what_is_no_picture_is_a_codec_error(data: bytes) -> None:
    with pytest.raises(StreamError) as caught:
        decode_picture(data, where="camera gate")

    assert caught.value.error_class == "codec"


@pytest.mark.parametrize(
    "data",
    [
        _claiming(_encoded(".jpg"), 10_000, 10_000),
        _claiming(_encoded(".jpg", options=_PROGRESSIVE), 10_000, 10_000),
        _grey_png(100, 100).replace(struct.pack(">II", 100, 100), struct.pack(">II", 2**31 - 1, 2**31 - 1)),
        _grey_png(100, 100).replace(struct.pack(">II", 100, 100), struct.pack(">II", 0, 100)),
    ],
)
def test_a_picture_that_claims_too_many_pixels_is_refused(data: bytes) -> None:
    with pytest.raises(StreamError, match="pixels, refused undecoded") as caught:
        decode_picture(data, where="camera gate")

    assert caught.value.error_class == "corrupt"


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    jpeg = _encoded(".jpg", options=_PROGRESSIVE)
    last_scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]

    with pytest.raises(StreamError, match="scans") as caught:
        decode_picture(jpeg[:-2] + last_scan * 5000 + jpeg[-2:], where="camera gate")

    assert caught.value.error_class == "corrupt"


_MEASURE = """
import resource, sys
from detector_worker.core.exceptions import StreamError
from detector_worker.streams.picture_decoding import decode_picture

def peak_kib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

data = sys.stdin.buffer.read()
before_kib = peak_kib()
try:
    decode_picture(data, where="camera gate")
except StreamError as exc:
    print(exc.error_class, (peak_kib() - before_kib) // 1024)
"""


def test_a_picture_of_100_megapixels_is_refused_without_its_memory() -> None:
    bomb = _grey_png(10_000, 10_000)
    assert len(bomb) < 2**20

    done = subprocess.run([sys.executable, "-c", _MEASURE], input=bomb, capture_output=True, timeout=50, check=True)
    error_class, grown_mib = done.stdout.split()

    assert error_class == b"corrupt"
    assert int(grown_mib) < 8
