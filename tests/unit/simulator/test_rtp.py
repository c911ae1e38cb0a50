import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector_worker.simulator.rtp import interleaved_packet, sender_report, split_nal_units, split_payloads

_UNITS = st.lists(st.binary(min_size=1, max_size=40).map(lambda body: b"\x65" + body + b"\x80"), min_size=1, max_size=5)


def _join_fragments(payloads: tuple[bytes, ...]) -> list[bytes]:
    """A receiver of RFC 6184, written apart from the sender."""
    units: list[bytes] = []
    for payload in payloads:
        if payload[0] & 31 != 28:
            units.append(payload)
        elif payload[1] & 0x80:
            units.append(bytes([payload[0] & 0xE0 | payload[1] & 0x1F]) + payload[2:])
        else:
            units[-1] += payload[2:]
    return units


@given(_UNITS)
def test_length_prefixed_units_are_found(units: list[bytes]) -> None:
    data = b"".join(struct.pack(">I", len(unit)) + unit for unit in units)

    assert split_nal_units(data, 4) == units


def test_units_behind_start_codes_of_both_lengths_are_found() -> None:
    data = b"\0\0\0\1\x67abc\0\0\1\x68de\0\0\0\1\x65fgh"

    assert split_nal_units(data, None) == [b"\x67abc", b"\x68de", b"\x65fgh"]


@given(st.binary(min_size=1, max_size=9000))
def test_a_receiver_joins_what_was_fragmented(body: bytes) -> None:
    unit = b"\x65" + body
    payloads = split_payloads([unit])

    assert _join_fragments(payloads) == [unit]
    assert max(map(len, payloads)) <= 1400


def test_first_and_last_fragment_are_marked_as_such() -> None:
    flags = [payload[1] & 0xC0 for payload in split_payloads([b"\x65" + bytes(4000)])]

    assert flags == [0x80, 0, 0x40]


@pytest.mark.parametrize("ends_picture", [True, False])
def test_the_marker_tells_the_end_of_a_picture(ends_picture: bool) -> None:
    header, payload = interleaved_packet(
        b"abc", channel=2, sequence=70_000, timestamp=2**32 + 5, ssrc=7, ends_picture=ends_picture
    )
    dollar, channel, length, version, kind, sequence, timestamp, ssrc = struct.unpack(">cBHBBHII", header)

    assert (dollar, channel, length, version, payload) == (b"$", 2, 15, 0x80, b"abc")
    assert (kind & 0x80 != 0, kind & 0x7F) == (ends_picture, 96)
    assert (sequence, timestamp, ssrc) == (70_000 - 65_536, 5, 7)


def test_a_sender_report_ties_rtp_time_to_the_wall_clock() -> None:
    report = sender_report(channel=1, ssrc=9, utc_s=1.5, timestamp=90_000, packets=3, payload_bytes=44)
    kind, words, ssrc, seconds, fraction, timestamp, packets, octets = struct.unpack(">xBHIIIIII", report[4:32])

    assert (kind, words, ssrc) == (200, 6, 9)
    assert (seconds - 2_208_988_800, fraction / 2**32) == (1, 0.5)
    assert (timestamp, packets, octets) == (90_000, 3, 44)
    assert int.from_bytes(report[2:4], "big") == len(report) - 4
