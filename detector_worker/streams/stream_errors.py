"""What FFmpeg, aiohttp and the operating system report, as errors of streams with their class."""

import errno
from collections.abc import Callable
from typing import Final, TypeVar

import aiohttp
import av

from detector_worker.core import exceptions
from detector_worker.core.exceptions import StreamError, StreamTimeoutError

__all__ = ["classify", "stream_error", "translated"]

_Result = TypeVar("_Result")

_CANNOT_CONNECT: Final = frozenset({"refused", "unreachable", "authentication", "not_found", "tls"})
_TEXTS: Final = {
    "refused": ("The camera refuses the connection", "Check its address and port, and that it allows another viewer."),
    "unreachable": ("The camera cannot be reached", "Check its address and the network between."),
    "authentication": ("The camera wants other credentials", "Check user name, password, and this user's rights."),
    "not_found": ("There is nothing at this address", "Check the part of the address behind the host."),
    "tls": ("The TLS handshake failed", "Check that the camera speaks TLS at this port, with a valid certificate."),
    "timeout": ("The camera did not answer in time", "Check that it is on and the network is not overloaded."),
    "ended": ("The camera ended the stream", "Check whether it was restarted or allows only few viewers."),
    "codec": ("This cannot be decoded", "Check that the address leads to a picture in a format such as H.264 or JPEG."),
    "corrupt": ("What arrives is damaged", "Check the network for losses, and that what sends is a camera."),
}
"""What happened and how to mend it, by the class of the protocol's streamStatus."""
_BY_TYPE: Final[tuple[tuple[type[Exception], str], ...]] = (  # the first that fits; FFmpeg's are also Python's own
    (av.error.HTTPUnauthorizedError, "authentication"),
    (av.error.HTTPForbiddenError, "authentication"),
    (av.error.HTTPNotFoundError, "not_found"),
    (av.error.HTTPError, "refused"),
    (av.error.HTTPClientError, "refused"),
    (av.error.ExitError, "timeout"),  # PyAV's deadline interrupts FFmpeg
    (av.error.LookupError, "codec"),
    (av.error.PatchWelcomeError, "codec"),
    (av.error.InvalidDataError, "corrupt"),
    (TimeoutError, "timeout"),
    (ConnectionRefusedError, "refused"),
    (PermissionError, "refused"),
    (FileNotFoundError, "not_found"),
    (EOFError, "ended"),
    (ConnectionError, "ended"),
    (aiohttp.ClientSSLError, "tls"),
    (aiohttp.ClientConnectorError, "unreachable"),
    (aiohttp.ClientPayloadError, "ended"),
    (aiohttp.ServerDisconnectedError, "ended"),
    (aiohttp.ClientOSError, "ended"),
    (aiohttp.ClientError, "refused"),
)


def stream_error(error_class: str, what: str | None = None, *, where: str, mend: str | None = None) -> StreamError:
    """Make the error of a class, in its words where no others are given; none must show a password."""
    kind = StreamTimeoutError if error_class == "timeout" else StreamError
    if error_class in _CANNOT_CONNECT:
        kind = exceptions.ConnectionError
    default_what, default_mend = _TEXTS[error_class]
    return kind(what or default_what, where=where, mend=mend or default_mend, error_class=error_class)


def classify(exc: Exception) -> str:
    """Return the class of a foreign error; what is unknown counts as ``unreachable``."""
    if isinstance(exc, aiohttp.ClientConnectorError) and not isinstance(exc, aiohttp.ClientSSLError):
        exc = exc.os_error
    if getattr(exc, "errno", None) == errno.EPROTONOSUPPORT:  # neither TCP nor UDP
        return "refused"
    return next((error_class for kind, error_class in _BY_TYPE if isinstance(exc, kind)), "unreachable")


def translated(call: Callable[[], _Result], *, where: str) -> _Result:
    """Call, and raise foreign errors as ours, without theirs as context: they quote the address with its password."""
    try:
        return call()
    except (av.FFmpegError, aiohttp.ClientError, OSError) as exc:
        error_class = classify(exc)
        words = f" (FFmpeg: {exc.strerror})" if isinstance(exc, av.FFmpegError) else ""
    raise stream_error(error_class, _TEXTS[error_class][0] + words, where=where)  # outside of the handler
