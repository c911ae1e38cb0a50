"""H.264 pictures as RTP packets, and the sender reports that go with them. Pure: bytes in, bytes out.

Source: RFC 3550 (RTP and RTCP), RFC 6184 (H.264 in RTP), RFC 2326 section 10.12 (interleaving in TCP).
"""

import secrets
import struct
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["CLOCK_HZ", "RtpSender", "split_nal_units", "split_payloads"]

CLOCK_HZ: Final = 90_000
"""The RTP clock of every video format here."""
_MAX_PAYLOAD_BYTES: Final = 1400
_PAYLOAD_TYPE: Final = 96
_MARKER: Final = 0x80
_FU_A: Final = 28
_UNIX_IN_NTP_S: Final = 2_208_988_800
_REPORT_EVERY_S: Final = 5.0
_RTP_HEADER: Final = struct.Struct(">cBHBBHII")  # four bytes of interleaving, then RTP's twelve
_REPORT: Final = struct.Struct(">cBHBBHIIIIIIBBHIBB6s")  # interleaving, sender report, SDES with a CNAME


def split_nal_units(data: bytes) -> list[bytes]:
    """Cut a coded picture at its start codes (Annex B) into its NAL units."""
    return [unit for unit in (part.rstrip(b"\0") for part in data.split(b"\0\0\1")) if unit]


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


class RtpSender:
    """One RTP stream inside an RTSP connection: RTP in ``channel``, reports in the next one."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._ssrc, self._sequence, self._base = secrets.randbits(32), secrets.randbits(16), secrets.randbits(32)
        self._sent, self._sent_bytes = 0, 0
        self._next_report_s = 0.0

    def packets(self, payloads: Sequence[bytes], timestamp: int, *, due_s: float, utc_s: float) -> list[bytes]:
        """Return what is to be written for one picture: a sender report where one is due, headers and payloads.

        ``due_s`` is the moment of sending, which the report ties to the wall clock's ``utc_s``.
        """
        written: list[bytes] = []
        if due_s >= self._next_report_s:
            self._next_report_s = due_s + _REPORT_EVERY_S
            written.append(self._report(round(due_s * CLOCK_HZ), utc_s))
        stamp = (self._base + timestamp) & 0xFFFFFFFF
        for number, payload in enumerate(payloads, 1):
            kind = _PAYLOAD_TYPE | (_MARKER if number == len(payloads) else 0)
            sequence = (self._sequence + self._sent) & 0xFFFF
            length = 12 + len(payload)
            written += _RTP_HEADER.pack(b"$", self._channel, length, 0x80, kind, sequence, stamp, self._ssrc), payload
            self._sent += 1
            self._sent_bytes += len(payload)
        return written

    def _report(self, timestamp: int, utc_s: float) -> bytes:
        words = (
            int(utc_s) + _UNIX_IN_NTP_S,
            int(utc_s % 1 * 2**32),
            self._base + timestamp,
            self._sent,
            self._sent_bytes,
        )
        return _REPORT.pack(
            *(b"$", self._channel + 1, _REPORT.size - 4),
            *(0x80, 200, 6, self._ssrc, *(word & 0xFFFFFFFF for word in words)),
            *(0x81, 202, 3, self._ssrc, 1, 6, b"camera"),
        )
