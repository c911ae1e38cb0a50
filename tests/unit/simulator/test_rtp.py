import struct

from detector_worker.simulator.rtp import RtpSender


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


def test_the_number_of_a_lost_packet_is_skipped() -> None:
    written = RtpSender(0).packets((b"a", None, b"c"), 0, due_s=0, utc_s=0)
    first, second = (struct.unpack(">H", header[6:8])[0] for header in written[1::2])

    assert written[2::2] == [b"a", b"c"]
    assert (second - first) % 2**16 == 2


def test_a_report_is_due_when_the_clock_is_set() -> None:
    sender = RtpSender(0)
    _sent(sender)
    report, *_ = sender.packets((b"a",), 0, due_s=0.1, utc_s=1.5, clock_offset_s=3600)

    assert int.from_bytes(report[12:16], "big") - 2_208_988_800 == 3601


def test_the_farewell_is_a_report_and_a_bye_of_the_same_source() -> None:
    sender = RtpSender(0)
    _, header, *_ = _sent(sender)
    farewell = sender.farewell(due_s=1, utc_s=2)

    assert (farewell[:2], farewell[5]) == (b"$\x01", 200)
    assert farewell[-8:] == bytes((0x81, 203, 0, 1)) + header[12:]
    assert int.from_bytes(farewell[2:4], "big") == len(farewell) - 4


def test_time_set_back_counts_for_pictures_and_reports_alike() -> None:
    sender = RtpSender(0)
    before = _sent(sender)
    sender.set_back(10)
    after = _sent(sender, due_s=5)

    for at, place in ((0, slice(20, 24)), (1, slice(8, 12))):
        ticks = (int.from_bytes(one[at][place], "big") for one in (after, before))
        difference = next(ticks) - next(ticks)
        assert difference % 2**32 == (-900_000 + (450_000 if at == 0 else 0)) % 2**32
