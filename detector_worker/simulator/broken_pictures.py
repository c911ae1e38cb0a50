"""Pictures that are not what they claim to be. Pure: bytes in, bytes out."""

import struct
import zlib
from typing import Final

__all__ = ["claiming"]

_SOF_KINDS: Final = frozenset({0xC0, 0xC1, 0xC2})


def claiming(data: bytes, wh: tuple[int, int]) -> bytes:
    """Return a JPEG or a PNG whose header claims another size, in pixels; the rest stays.

    Raises:
        ValueError: It is neither.
    """
    width, height = wh
    if data.startswith(b"\x89PNG"):
        header = data[12:16] + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    at = _find_frame_header(data) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _find_frame_header(data: bytes) -> int:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _SOF_KINDS:
            return at
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ValueError("it is neither JPEG nor PNG")
