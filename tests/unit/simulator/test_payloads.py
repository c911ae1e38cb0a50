from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector_worker.simulator.payloads import Codec, split_nal_units, split_picture


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


def _join_h265_fragments(payloads: tuple[bytes, ...]) -> list[bytes]:
    """A receiver of RFC 7798, written apart from the sender."""
    units: list[bytes] = []
    for payload in payloads:
        if payload[0] >> 1 & 63 != 49:
            units.append(payload)
        elif payload[2] & 0x80:
            units.append(bytes([payload[0] & 0x81 | (payload[2] & 0x3F) << 1, payload[1]]) + payload[3:])
        else:
            units[-1] += payload[3:]
    return units


def test_units_behind_start_codes_of_both_lengths_are_found() -> None:
    data = b"\0\0\0\1\x67abc\0\0\1\x68de\0\0\0\1\x65fgh"

    assert split_nal_units(data) == [b"\x67abc", b"\x68de", b"\x65fgh"]


# No zeros inside, which could make a start code.
_BODIES = st.binary(min_size=1, max_size=9000).map(lambda body: body.replace(b"\0", b"\1"))


@given(_BODIES)
def test_a_receiver_joins_what_was_fragmented(body: bytes) -> None:
    unit = b"\x65" + body
    payloads = split_picture(Codec.H264, b"\0\0\1" + unit)

    assert _join_fragments(payloads) == [unit]
    assert max(map(len, payloads)) <= 1400


@given(_BODIES)
def test_a_receiver_joins_fragments_of_h265(body: bytes) -> None:
    unit = b"\x26\x01" + body
    payloads = split_picture(Codec.H265, b"\0\0\1" + unit)

    assert _join_h265_fragments(payloads) == [unit]
    assert max(map(len, payloads)) <= 1400


def test_first_and_last_fragment_are_marked_as_such() -> None:
    flags = [payload[1] & 0xC0 for payload in split_picture(Codec.H264, b"\0\0\1\x65" + b"\1" * 4000)]

    assert flags == [0x80, 0, 0x40]


def _jpeg(pix_fmt: str, wh: tuple[int, int]) -> bytes:
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height = wh
    encoder.pix_fmt, encoder.thread_count = pix_fmt, 1
    encoder.time_base, encoder.options = Fraction(1), {"huffman": "default"}
    noise = np.random.default_rng(1).integers(0, 256, (wh[1], wh[0], 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="bgr24").reformat(format=pix_fmt)
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def test_a_jpeg_is_its_scan_in_order_with_size_and_tables_told() -> None:
    data = _jpeg("yuvj420p", (160, 120))
    payloads = split_picture(Codec.JPEG, data)
    first, *others = payloads

    assert first[:8] == bytes((0, 0, 0, 0, 1, 255, 20, 15))
    assert first[8:12] == bytes((0, 0, 0, 128))
    assert max(map(len, payloads)) <= 1400
    scan = first[140:]
    for payload in others:
        assert int.from_bytes(payload[:4], "big") == len(scan)
        scan += payload[8:]
    assert data.endswith(scan + b"\xff\xd9")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no picture", "no JPEG"),
        (_jpeg("yuvj422p", (160, 120)), "4:2:0"),
        (_jpeg("yuvj420p", (2048, 16)), "2040"),
    ],
)
def test_a_jpeg_that_rtp_cannot_carry_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        split_picture(Codec.JPEG, data)
