import struct

from hypothesis import given
from hypothesis import strategies as st

from detector_worker.simulator.rtp import RtpSender, split_nal_units, split_payloads


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


def test_units_behind_start_codes_of_both_lengths_are_found() -> None:
    data = b"\0\0\0\1\x67abc\0\0\1\x68de\0\0\0\1\x65fgh"

    assert split_nal_units(data) == [b"\x67abc", b"\x68de", b"\x65fgh"]


@given(st.binary(min_size=1, max_size=9000))
def test_a_receiver_joins_what_was_fragmented(body: bytes) -> None:
    unit = b"\x65" + body
    payloads = split_payloads([unit])

    assert _join_fragments(payloads) == [unit]
    assert max(map(len, payloads)) <= 1400


def test_first_and_last_fragment_are_marked_as_such() -> None:
    flags = [payload[1] & 0xC0 for payload in split_payloads([b"\x65" + bytes(4000)])]

    assert flags == [0x80, 0, 0x40]


def _sent(sender: RtpSender, timestamp: int = 0, *, due_s: float = 0.0) -> list[bytes]:
    """Two packets, each header before its payload, behind a report where one is due."""
    return sender.packets((b"abc", b"de"), timestamp, due_s=due_s, utc_s=1.5)


def test_headers_count_the_packets_and_mark_the_end_of_a_picture() -> None:
    sender = RtpSender(2)
    _, *first = _sent(sender, 5)
    second = _sent(sender, 2**32 + 6)
    fields = [struct.unpack(">cBHBBHII", header) for header in (*first[::2], *second[::2])]

    assert [*first[1::2], *second[1::2]] == [b"abc", b"de"] * 2
    assert [field[:4] for field in fields] == [(b"$", 2, 15, 0x80), (b"$", 2, 14, 0x80)] * 2
    assert [field[4] for field in fields] == [96, 96 | 0x80] * 2
    assert [(field[5] - fields[0][5]) % 2**16 for field in fields] == [0, 1, 2, 3]
    assert [(field[6] - fields[0][6]) % 2**32 for field in fields] == [0, 0, 1, 1]
    assert len({field[7] for field in fields}) == 1


def test_a_sender_report_ties_rtp_time_to_the_wall_clock() -> None:
    sender = RtpSender(0)
    first, header, *_ = _sent(sender)
    report, *_ = _sent(sender, due_s=5.0)
    kind, words, ssrc, seconds, fraction, timestamp, packets, octets = struct.unpack(">xBHIIIIII", report[4:32])

    assert (report[:2], kind, words, ssrc) == (b"$\x01", 200, 6, int.from_bytes(header[12:], "big"))
    assert (seconds - 2_208_988_800, fraction / 2**32) == (1, 0.5)
    assert (timestamp - int.from_bytes(first[20:24], "big")) % 2**32 == 450_000
    assert (packets, octets) == (2, 5)
    assert int.from_bytes(report[2:4], "big") == len(report) - 4
