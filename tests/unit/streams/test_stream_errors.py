import errno
import socket

import av
import pytest

from detector_worker.core import exceptions
from detector_worker.core.addresses import Address
from detector_worker.core.exceptions import StreamTimeoutError
from detector_worker.streams.stream_errors import classify, diagnose, stream_error

_SCHEMES = frozenset({"rtsp", "rtsps"})


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


def test_a_closed_port_is_diagnosed_as_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    assert diagnose(Address.parse(f"rtsp://127.0.0.1:{port}/x", _SCHEMES), timeout_s=1) == "refused"


@pytest.mark.parametrize(("scheme", "error_class"), [("rtsp", "refused"), ("rtsps", "tls")])
def test_an_open_port_that_could_not_be_used_is_diagnosed(scheme: str, error_class: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address.parse(f"{scheme}://127.0.0.1:{server.getsockname()[1]}/x", _SCHEMES)

        assert diagnose(address, timeout_s=1) == error_class


def test_an_unknown_host_is_unreachable() -> None:
    assert diagnose(Address.parse("rtsp://camera.invalid/x", _SCHEMES), timeout_s=1) == "unreachable"
