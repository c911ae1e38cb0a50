import errno

import av
import pytest

from detector_worker.core import exceptions
from detector_worker.core.exceptions import StreamTimeoutError
from detector_worker.streams.stream_errors import classify, stream_error


@pytest.mark.parametrize(
    ("tag", "error_class"),
    [
        (b"\xf8401", "authentication"),
        (b"\xf8403", "authentication"),
        (b"\xf8404", "not_found"),
        (b"\xf84XX", "refused"),
        (b"\xf85XX", "refused"),
        (b"EOF ", "ended"),
        (b"EXIT", "timeout"),
        (b"INDA", "corrupt"),
        (b"\xf8DEC", "codec"),
    ],
)
def test_an_error_of_ffmpeg_has_its_class(tag: bytes, error_class: str) -> None:
    with pytest.raises(av.FFmpegError) as caught:
        av.error.err_check(-av.error.tag_to_code(tag), "rtsp://host")

    assert classify(caught.value) == error_class


@pytest.mark.parametrize(
    ("number", "error_class"),
    [
        (errno.ECONNREFUSED, "refused"),
        (errno.EPROTONOSUPPORT, "refused"),
        (errno.ETIMEDOUT, "timeout"),
        (errno.ECONNRESET, "ended"),
        (errno.EHOSTUNREACH, "unreachable"),
        (errno.ENETUNREACH, "unreachable"),
        (errno.EIO, "unreachable"),
    ],
)
def test_an_error_of_the_system_has_its_class(number: int, error_class: str) -> None:
    with pytest.raises(av.FFmpegError) as caught:
        av.error.err_check(-number, "rtsp://host")

    assert classify(caught.value) == error_class


@pytest.mark.parametrize(
    ("error_class", "kind"),
    [
        ("refused", exceptions.ConnectionError),
        ("authentication", exceptions.ConnectionError),
        ("timeout", StreamTimeoutError),
        ("corrupt", exceptions.StreamError),
    ],
)
def test_the_class_decides_the_type_and_the_remedy(error_class: str, kind: type[Exception]) -> None:
    error = stream_error(error_class, "It failed", where="camera gate")

    assert type(error) is kind
    assert error.error_class == error_class
    assert error.mend


def test_an_error_may_have_words_of_its_own() -> None:
    error = stream_error("refused", "It leads elsewhere", where="camera gate", mend="Ask for a key.")

    assert str(error) == "It leads elsewhere [camera gate]. Ask for a key."
