"""H.264 pictures as RTP packets, and the sender reports that go with them. Pure: bytes in, bytes out.

Source: RFC 3550 (RTP and RTCP), RFC 6184 (H.264 in RTP), RFC 2326 section 10.12 (interleaving in TCP).
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["CLOCK_HZ", "interleaved_packet", "sender_report", "split_nal_units", "split_payloads"]

CLOCK_HZ: Final = 90_000
"""The RTP clock of every video format here."""
_MAX_PAYLOAD_BYTES: Final = 1400
_PAYLOAD_TYPE: Final = 96
_MARKER: Final = 0x80
_FU_A: Final = 28
_UNIX_IN_NTP_S: Final = 2_208_988_800
_RTP_HEADER: Final = struct.Struct(">cBHBBHII")  # four bytes of interleaving, then RTP's twelve
_RTCP_HEADER: Final = struct.Struct(">cBH")
_REPORT: Final = struct.Struct(">BBHIIIIII")


def split_nal_units(data: bytes, length_bytes: int | None) -> list[bytes]:
    """Cut a coded picture into its NAL units.

    Args:
        data: One picture as a file or an encoder holds it.
        length_bytes: How many bytes each length prefix has (AVCC, as in MP4); None: start codes (Annex B).
    """
    if length_bytes is None:
        return [unit for unit in (part.rstrip(b"\0") for part in data.split(b"\0\0\1")) if unit]
    units, at = [], 0
    while at + length_bytes <= len(data):
        end = at + length_bytes + int.from_bytes(data[at : at + length_bytes], "big")
        units.append(data[at + length_bytes : end])
        at = end
    return [unit for unit in units if unit]


def split_payloads(nal_units: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the RTP payloads of one picture: a unit as it is where it fits, else cut into fragments (FU-A)."""
    return tuple(payload for unit in nal_units for payload in _fragments(unit))


def _fragments(unit: bytes) -> Iterator[bytes]:
    if len(unit) <= _MAX_PAYLOAD_BYTES:
        yield unit
        return
    indicator, kind = (unit[0] & 0xE0) | _FU_A, unit[0] & 0x1F
    step = _MAX_PAYLOAD_BYTES - 2
    for at in range(1, len(unit), step):
        first, last = at == 1, at + step >= len(unit)
        yield bytes((indicator, kind | first << 7 | last << 6)) + unit[at : at + step]


def interleaved_packet(
    payload: bytes, *, channel: int, sequence: int, timestamp: int, ssrc: int, ends_picture: bool
) -> tuple[bytes, bytes]:
    """Return header and payload of one RTP packet as it travels in the RTSP connection."""
    kind = _PAYLOAD_TYPE | (_MARKER if ends_picture else 0)
    header = _RTP_HEADER.pack(
        b"$", channel, 12 + len(payload), 0x80, kind, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc
    )
    return header, payload


def sender_report(*, channel: int, ssrc: int, utc_s: float, timestamp: int, packets: int, payload_bytes: int) -> bytes:
    """Return an RTCP sender report with its SDES, interleaved: it ties RTP time to the wall clock.

    Args:
        channel: RTCP's channel of the interleaving.
        ssrc: The sender.
        utc_s: Now, seconds since 1970.
        timestamp: Now in RTP's clock.
        packets: Sent so far.
        payload_bytes: Sent so far, without headers.
    """
    seconds = int(utc_s)
    fraction = int((utc_s - seconds) * 2**32)
    words = (seconds + _UNIX_IN_NTP_S, fraction, timestamp, packets, payload_bytes)
    report = _REPORT.pack(0x80, 200, 6, ssrc, *(word & 0xFFFFFFFF for word in words))
    description = struct.pack(">BBHIBB6s", 0x81, 202, 3, ssrc, 1, 6, b"camera")
    return _RTCP_HEADER.pack(b"$", channel, len(report) + len(description)) + report + description
