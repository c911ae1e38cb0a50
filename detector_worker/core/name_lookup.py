"""Host names to IP addresses, with the deadline that the system's own look-up lacks."""

import socket
import threading
from concurrent.futures import Future

__all__ = ["look_up", "read_numeric"]


def look_up(host: str, port: int | None, *, timeout_s: float) -> tuple[str, ...]:
    """Return a host's IP addresses. Blocks; a look-up that hangs keeps a thread until the system gives up.

    Raises:
        OSError: It cannot be resolved (`socket.gaierror`), or not in time.
    """
    try:
        return read_numeric(host, port)
    except OSError:
        pass  # a name
    answer: Future[tuple[str, ...]] = Future()

    def ask() -> None:
        try:
            answer.set_result(_addresses(host, port, flags=0))
        except OSError as exc:
            answer.set_exception(exc)

    threading.Thread(target=ask, name=f"look-up of {host}", daemon=True).start()
    try:
        return answer.result(timeout_s)
    except TimeoutError:
        raise socket.gaierror(socket.EAI_AGAIN, "the name was not resolved in time") from None


def read_numeric(host: str, port: int | None) -> tuple[str, ...]:
    """Return the IP address that a host is in whatever notation; OSError where it is a name. Does not block."""
    return _addresses(host, port, flags=socket.AI_NUMERICHOST)


def _addresses(host: str, port: int | None, *, flags: int) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as exc:  # a label that IDNA refuses
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from exc
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
