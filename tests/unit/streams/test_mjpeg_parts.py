import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.http_cameras import encoded, multipart

from detector_worker.streams.mjpeg_parts import MultipartError, MultipartParser

_JPEG = encoded(grey=90)
_MOST_BYTES = 2**20


def _parts(stream: bytes, boundary: str | None = "frame", *, step: int = 65_536) -> list[bytes]:
    parser = MultipartParser(boundary, max_part_bytes=_MOST_BYTES)
    chunks = (stream[start : start + step] for start in range(0, len(stream), step))
    return [bytes(part) for chunk in chunks for part in parser.feed(chunk)]


@pytest.mark.parametrize("length", [True, False])
def test_parts_are_found_with_and_without_their_length(length: bool) -> None:
    stream = multipart(_JPEG, length=length) + multipart(b"second", length=length) + b"--frame"

    assert _parts(stream) == [_JPEG, b"second"]


def test_a_part_with_its_length_is_complete_before_the_next_boundary() -> None:
    assert _parts(multipart(_JPEG)) == [_JPEG]


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize(
    ("declared", "written"),
    [
        ("frame", "--frame"),
        ("frame", "frame"),
        ("frame", "----frame"),
        ("--frame", "--frame"),
        ("--frame", "----frame"),
        ("--frame", "frame"),
        ('"frame"', "--frame"),
        (None, "--frame"),
        ("", "--frame"),
        ("--", "--frame"),
    ],
)
def test_sloppy_boundaries_are_understood(declared: str | None, written: str, length: bool) -> None:
    stream = multipart(_JPEG, boundary=written, length=length) * 3 + written.encode() + b"\r\n"

    assert _parts(stream, declared) == [_JPEG] * 3


def test_bare_newlines_are_understood() -> None:
    assert _parts(b"--frame\nContent-Type: image/jpeg\n\nfirst\n--frame\n\nsecond\n--frame\n") == [b"first", b"second"]


def test_a_boundary_right_behind_a_picture_is_found() -> None:
    assert _parts(b"--frame\r\n\r\n" + _JPEG + b"--frame\r\n\r\n" + _JPEG + b"--frame") == [_JPEG, _JPEG]


def test_a_boundary_without_dashes_within_a_line_is_none() -> None:
    assert _parts(b"--frame\r\n\r\na frame of mine\r\nframe\r\n") == [b"a frame of mine"]


def test_text_before_the_first_boundary_is_passed_over() -> None:
    assert _parts(b"one frame\r\n" * 10_000 + multipart(_JPEG)) == [_JPEG]


def test_after_a_wrong_length_the_next_part_is_found() -> None:
    wrong = b"--frame\r\nContent-Length: 10\r\n\r\n" + _JPEG + b"\r\n"

    assert _parts(wrong + multipart(_JPEG)) == [_JPEG[:10], _JPEG]


@pytest.mark.parametrize("length", [b"0", b"-5", b"many", b""])
def test_a_length_that_says_nothing_is_as_none(length: bytes) -> None:
    assert _parts(b"--frame\r\nContent-Length: " + length + b"\r\n\r\nbody\r\n--frame\r\n") == [b"body"]


@given(
    bodies=st.lists(st.binary(min_size=1, max_size=40).filter(lambda body: b"frame" not in body), max_size=4),
    cuts=st.lists(st.integers(0, 600), max_size=8),
)
def test_the_parts_do_not_depend_on_how_the_bytes_arrive(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(multipart(body) for body in bodies)
    parser = MultipartParser("frame", max_part_bytes=_MOST_BYTES)
    chunks = [stream[start:end] for start, end in pairwise([0, *sorted(cuts), 600])]

    assert [bytes(part) for chunk in chunks for part in parser.feed(chunk)] == bodies


@given(stream=st.lists(st.sampled_from([b"--", b"frame", b"\r\n", b"\n", b"Content-Length: 3", b"xy", b"-"])))
def test_byte_by_byte_gives_the_same_as_all_at_once(stream: list[bytes]) -> None:
    whole = b"".join(stream)

    assert _parts(whole, step=1) == _parts(whole)


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        (b"--frame\r\n\r\n" + bytes(_MOST_BYTES + 1), "body"),
        (b"--frame\r\nContent-Length: 1048577\r\n\r\n", "body"),
        (b"--frame\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", "body"),
        (b"--frame\r\n" + b"X: y\r\n" * 10_000, "header"),
        (b"--frame\r\nX: " + b"y" * 20_000, "header"),
        (b"--frame" + b"-" * 20_000, "header"),
        (b"--frame\r\n\r\n" * 200, "empty"),
    ],
)
def test_what_has_no_end_is_refused(stream: bytes, words: str) -> None:
    with pytest.raises(MultipartError, match=words):
        _parts(stream)


def test_a_boundary_without_end_is_refused() -> None:
    with pytest.raises(MultipartError, match="boundary"):
        MultipartParser("x" * 5000, max_part_bytes=_MOST_BYTES)
    with pytest.raises(MultipartError, match="boundary"):
        _parts(b"x" * 5000 + b"\r\n", None)


def test_what_never_becomes_a_part_is_not_kept() -> None:
    parser = MultipartParser("frame", max_part_bytes=_MOST_BYTES)
    for _ in range(1000):
        parser.feed(b"-fram" * 1000)

    assert len(parser._buffer) < 100


def test_a_long_body_in_small_pieces_is_not_searched_again_and_again() -> None:
    def seconds_for(pieces: int) -> float:
        parser = MultipartParser("frame", max_part_bytes=2**30)
        parser.feed(b"--frame\r\n\r\n")
        start_s = time.perf_counter()
        for _ in range(pieces):
            parser.feed(b"f" * 500)
        return time.perf_counter() - start_s

    seconds_for(1000)
    assert seconds_for(16_000) < 16 * 8 * max(seconds_for(1000), 1e-4)
