"""FFmpeg's and the operating system's errors, as errors of streams with their class."""

import errno
import socket
from typing import Final

import av

from detector_worker.core import exceptions
from detector_worker.core.addresses import Address
from detector_worker.core.exceptions import StreamError, StreamTimeoutError

__all__ = ["classify", "diagnose", "stream_error"]

_MEND: Final = {
    "refused": "Check that the camera is on, allows another viewer, and that address and port are right.",
    "unreachable": "Check the camera's address and the network between.",
    "timeout": "Check that the camera is on and the network is not overloaded.",
    "authentication": "Check user name and password, and that this user may view the camera.",
    "not_found": "Check the part of the address behind the host.",
    "codec": "Check that the address leads to a picture, and in a format that FFmpeg decodes, such as H.264.",
    "tls": "Check that the camera speaks TLS at this port and that its certificate is valid.",
    "ended": "Check whether the camera was restarted or allows only few viewers.",
    "corrupt": "Check the network for losses, and that what sends is a camera.",
}
_CANNOT_CONNECT: Final = frozenset({"refused", "unreachable", "authentication", "not_found", "tls"})
_BY_TYPE: Final[tuple[tuple[type[av.FFmpegError], str], ...]] = (
    (av.error.HTTPUnauthorizedError, "authentication"),
    (av.error.HTTPForbiddenError, "authentication"),
    (av.error.HTTPNotFoundError, "not_found"),
    (av.error.HTTPError, "refused"),
    (av.error.HTTPClientError, "refused"),
    (av.error.ConnectionRefusedError, "refused"),
    (av.error.PermissionError, "refused"),
    (av.error.ConnectionResetError, "ended"),
    (av.error.ConnectionAbortedError, "ended"),
    (av.error.BrokenPipeError, "ended"),
    (av.error.EOFError, "ended"),
    (av.error.TimeoutError, "timeout"),
    (av.error.ExitError, "timeout"),  # PyAV's deadline interrupts FFmpeg
    (av.error.FileNotFoundError, "not_found"),
    (av.error.LookupError, "codec"),
    (av.error.PatchWelcomeError, "codec"),
    (av.error.InvalidDataError, "corrupt"),
)
_WHAT: Final = {  # where FFmpeg's own words would mislead
    "refused": "The camera closed the connection",
    "unreachable": "The camera cannot be reached",
    "timeout": "The camera did not answer in time",
    "tls": "The TLS handshake failed",
    "ended": "The camera ended the stream",
}
_UNSUPPORTED_TRANSPORT: Final = errno.EPROTONOSUPPORT


def stream_error(error_class: str, what: str | None = None, *, where: str) -> StreamError:
    """Make the error of a class; ``where`` must show no password."""
    what = what or _WHAT[error_class]
    kind = StreamError
    if error_class == "timeout":
        kind = StreamTimeoutError
    elif error_class in _CANNOT_CONNECT:
        kind = exceptions.ConnectionError
    return kind(what, where=where, mend=_MEND[error_class], error_class=error_class)


def classify(exc: av.FFmpegError) -> str:
    """Return the class of what FFmpeg reports."""
    if exc.errno == _UNSUPPORTED_TRANSPORT:
        return "refused"
    return next((error_class for kind, error_class in _BY_TYPE if isinstance(exc, kind)), "unreachable")


def diagnose(address: Address, *, timeout_s: float) -> str:
    """Find out why an address could not be opened where FFmpeg only says "invalid data" or "input/output error".

    It says so of unknown hosts, of closed connections, of failed handshakes and of hosts that do not answer.
    Connects once, at most ``timeout_s`` after the look-up.
    """
    try:
        with socket.create_connection((address.host, address.port or 0), timeout_s):
            return "tls" if address.scheme == "rtsps" else "refused"
    except TimeoutError:
        return "timeout"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "unreachable"
