"""Coded pictures cut into RTP payloads. Pure: bytes in, bytes out.

Source: RFC 6184 (H.264), RFC 7798 (H.265), RFC 2435 (JPEG).
"""

import struct
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

__all__ = ["Codec", "nal_kind", "split_nal_units", "split_picture"]

_MAX_PAYLOAD_BYTES: Final = 1400
_FU_A: Final = 28
_H265_FU: Final = 49
_JPEG_TYPE_420: Final = 1
_JPEG_OWN_TABLES: Final = 255
_JPEG_TABLE_BYTES: Final = 64
_DQT, _SOF0, _SOS = 0xDB, 0xC0, 0xDA


class Codec(StrEnum):
    """What a camera can send, by FFmpeg's names."""

    H264 = "h264"
    H265 = "hevc"
    JPEG = "mjpeg"


def split_picture(codec: Codec, data: bytes) -> tuple[bytes, ...]:
    """Return the RTP payloads of one picture.

    Args:
        codec: Its codec.
        data: NAL units with start codes (Annex B), or a baseline JPEG with 4:2:0 colours and the usual Huffman tables.

    Raises:
        ValueError: It is no JPEG of this kind.
    """
    if codec is Codec.JPEG:
        return tuple(_jpeg_fragments(data))
    return tuple(payload for unit in split_nal_units(data) for payload in _unit_fragments(codec, unit))


def split_nal_units(data: bytes) -> list[bytes]:
    """Cut a coded picture at its start codes (Annex B) into its NAL units."""
    return [unit for unit in (part.rstrip(b"\0") for part in data.split(b"\0\0\1")) if unit]


def nal_kind(codec: Codec, unit: bytes) -> int:
    """Return what a NAL unit says that it is."""
    return unit[0] & 0x1F if codec is Codec.H264 else unit[0] >> 1 & 0x3F


def _unit_fragments(codec: Codec, unit: bytes) -> Iterator[bytes]:
    """Yield a unit as it is where it fits, else fragments (FU-A of H.264, FU of H.265)."""
    if len(unit) <= _MAX_PAYLOAD_BYTES:
        yield unit
        return
    kind = nal_kind(codec, unit)
    if codec is Codec.H264:
        header, at = bytes((unit[0] & 0xE0 | _FU_A,)), 1
    else:
        header, at = bytes((unit[0] & 0x81 | _H265_FU << 1, unit[1])), 2
    step, begin = _MAX_PAYLOAD_BYTES - len(header) - 1, at
    for at in range(begin, len(unit), step):
        first, last = at == begin, at + step >= len(unit)
        yield header + bytes((first << 7 | last << 6 | kind,)) + unit[at : at + step]


def _jpeg_fragments(data: bytes) -> Iterator[bytes]:
    """Yield the scan alone, behind headers that tell what the receiver cannot know."""
    (width, height), tables, scan = _read_jpeg(data)
    at = 0
    while at < len(scan):
        header = struct.pack(">IBBBB", at, _JPEG_TYPE_420, _JPEG_OWN_TABLES, width // 8, height // 8)
        if at == 0:
            header += struct.pack(">HH", 0, len(tables)) + tables
        step = _MAX_PAYLOAD_BYTES - len(header)
        yield header + scan[at : at + step]
        at += step


def _read_jpeg(data: bytes) -> tuple[tuple[int, int], bytes, bytes]:
    """Return width and height, the two quantization tables, and the scan up to the end marker."""
    at, wh, tables = 2, (0, 0), b""
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind, length = struct.unpack_from(">BH", data, at + 1)
        body = data[at + 4 : at + 2 + length]
        at += 2 + length
        if kind == _DQT:
            tables += b"".join(
                body[begin + 1 : begin + 1 + _JPEG_TABLE_BYTES] for begin in range(0, len(body), 1 + _JPEG_TABLE_BYTES)
            )
        elif kind == _SOF0:
            height, width = struct.unpack_from(">HH", body, 1)
            wh = width, height
            if body[7::3] != b"\x22\x11\x11":
                raise ValueError("its colours are not 4:2:0")
        elif kind == _SOS:
            if not tables or not all(0 < side <= 2040 and side % 8 == 0 for side in wh):
                raise ValueError("it is larger than 2040 x 2040, or no baseline JPEG")
            return wh, (tables * 2)[: 2 * _JPEG_TABLE_BYTES], data[at:].removesuffix(b"\xff\xd9")
    raise ValueError("it is no JPEG")
