"""Host names to IP addresses, with the deadline that the system's own look-up lacks."""

import asyncio
import socket
import threading
from concurrent.futures import Future

__all__ = ["look_up", "look_up_on_loop", "read_numeric"]


def look_up(host: str, port: int | None, *, timeout_s: float) -> tuple[str, ...]:
    """Return a host's IP addresses. Blocks; a look-up that hangs keeps a thread until the system gives up.

    Raises:
        OSError: It cannot be resolved (`socket.gaierror`), or not in time.
    """
    try:
        return _begun(host, port).result(timeout_s)
    except TimeoutError:
        raise _late() from None


async def look_up_on_loop(host: str, port: int | None, *, timeout_s: float) -> tuple[str, ...]:
    """As `look_up`, without blocking; who is cancelled waits no longer."""
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.wrap_future(_begun(host, port))
    except TimeoutError:
        raise _late() from None


def _begun(host: str, port: int | None) -> Future[tuple[str, ...]]:
    """Ask in a daemon thread: nobody can end a look-up that hangs, and nobody must wait for it at the end."""
    answer: Future[tuple[str, ...]] = Future()
    answer.set_running_or_notify_cancel()  # it cannot be cancelled from now on

    def ask() -> None:
        try:
            answer.set_result(_addresses(host, port, flags=0))
        except OSError as exc:
            answer.set_exception(exc)

    try:
        answer.set_result(read_numeric(host, port))
    except OSError:  # a name
        threading.Thread(target=ask, name=f"look-up of {host}", daemon=True).start()
    return answer


def _late() -> socket.gaierror:
    return socket.gaierror(socket.EAI_AGAIN, "the name was not resolved in time")


def read_numeric(host: str, port: int | None) -> tuple[str, ...]:
    """Return the IP address that a host is in whatever notation; OSError where it is a name. Does not block."""
    return _addresses(host, port, flags=socket.AI_NUMERICHOST)


def _addresses(host: str, port: int | None, *, flags: int) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as exc:  # a label that IDNA refuses
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from exc
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
