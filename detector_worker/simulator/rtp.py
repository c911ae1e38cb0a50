"""RTP packets, and the sender reports that go with them, as they stand in an RTSP connection. Pure: bytes out.

Source: RFC 3550 (RTP and RTCP), RFC 2326 section 10.12 (interleaving in TCP).
"""

import secrets
import struct
from collections.abc import Iterable
from typing import Final

__all__ = ["CLOCK_HZ", "RtpSender"]

CLOCK_HZ: Final = 90_000
"""The RTP clock of every video format here."""
_MARKER: Final = 0x80
_UNIX_IN_NTP_S: Final = 2_208_988_800
_REPORT_EVERY_S: Final = 5.0
_RTP_HEADER: Final = struct.Struct(">cBHBBHII")  # four bytes of interleaving, then RTP's twelve
_REPORT: Final = struct.Struct(">BBHIIIIIIBBHIBB6s")  # sender report, SDES with a CNAME
_BYE: Final = struct.Struct(">BBHI")


class RtpSender:
    """One RTP stream inside an RTSP connection: RTP in ``channel``, reports in the next one."""

    def __init__(self, channel: int, *, payload_type: int = 96, clock_hz: int = CLOCK_HZ) -> None:
        self._channel, self._payload_type, self._clock_hz = channel, payload_type, clock_hz
        self._ssrc, self._sequence, self._base = secrets.randbits(32), secrets.randbits(16), secrets.randbits(32)
        self._sent, self._sent_bytes = 0, 0
        self._next_report_s = 0.0
        self._offset_s = 0.0

    def packets(
        self,
        payloads: Iterable[bytes | None],
        timestamp: int,
        *,
        due_s: float,
        utc_s: float,
        clock_offset_s: float = 0.0,
    ) -> list[bytes]:
        """Return what is to be written for one picture: a sender report where one is due, headers and payloads.

        Args:
            payloads: Of one picture; None is one that gets lost on its way, and leaves a gap in the numbers.
            timestamp: When the picture is shown, ticks of the RTP clock.
            due_s: The moment of sending, which a report ties to the wall clock; seconds on the clock of ``timestamp``.
            utc_s: The wall clock's time at that moment.
            clock_offset_s: How far the camera's wall clock is ahead; where that changes, a report is due.
        """
        written: list[bytes] = []
        if due_s >= self._next_report_s or clock_offset_s != self._offset_s:
            self._next_report_s, self._offset_s = due_s + _REPORT_EVERY_S, clock_offset_s
            written.append(self._in_reports(self._report(due_s, utc_s + clock_offset_s)))
        stamp = (self._base + timestamp) & 0xFFFFFFFF
        all_payloads = tuple(payloads)
        for number, payload in enumerate(all_payloads, 1):
            kind = self._payload_type | (_MARKER if number == len(all_payloads) else 0)
            self._sequence = (self._sequence + 1) & 0xFFFF
            if payload is None:
                continue
            length = 12 + len(payload)
            header = _RTP_HEADER.pack(b"$", self._channel, length, 0x80, kind, self._sequence, stamp, self._ssrc)
            written += header, payload
            self._sent += 1
            self._sent_bytes += len(payload)
        return written

    def farewell(self, *, due_s: float, utc_s: float) -> bytes:
        """Return the last report, which says that the stream has ended (BYE)."""
        return self._in_reports(self._report(due_s, utc_s + self._offset_s) + _BYE.pack(0x81, 203, 1, self._ssrc))

    def set_back(self, by_s: float) -> None:
        """Let the RTP clock jump back."""
        self._base -= round(by_s * self._clock_hz)

    def _report(self, due_s: float, utc_s: float) -> bytes:
        words = (
            int(utc_s) + _UNIX_IN_NTP_S,
            int(utc_s % 1 * 2**32),
            self._base + round(due_s * self._clock_hz),
            self._sent,
            self._sent_bytes,
        )
        return _REPORT.pack(
            *(0x80, 200, 6, self._ssrc, *(word & 0xFFFFFFFF for word in words)),
            *(0x81, 202, 3, self._ssrc, 1, 6, b"camera"),
        )

    def _in_reports(self, content: bytes) -> bytes:
        return struct.pack(">cBH", b"$", self._channel + 1, len(content)) + content
