"""The way to a camera: its name, TCP and TLS, to checked addresses only and to be given up at any moment."""

import errno
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from detector_worker.core.addresses import Address, NetworkPolicy, resolve_and_check
from detector_worker.core.exceptions import MessageProcessingError, StreamError
from detector_worker.streams.stream_errors import stream_error

__all__ = ["CameraDialer", "DialedCamera", "given_up"]

_SLICE_S: Final = 0.05
"""How long to wait before the next look whether it is given up."""
_UNDER_WAY: Final = frozenset({0, errno.EINPROGRESS, errno.EWOULDBLOCK})


@dataclass(frozen=True, slots=True)
class DialedCamera:
    """A connected, non-blocking socket and the IP address that it leads to."""

    sock: socket.socket
    ip: str


class CameraDialer:
    """One attempt to connect. Blocks its thread, but no longer than told, and never deaf to ``is_given_up``."""

    def __init__(
        self, policy: NetworkPolicy, *, where: str, deadline_s: float, is_given_up: Callable[[], bool]
    ) -> None:
        """Prepare.

        Args:
            policy: Where the worker may connect.
            where: Names the camera in errors, without its password.
            deadline_s: Of the whole attempt, on `time.monotonic`.
            is_given_up: Asked 20 times a second while something is waited for.
        """
        self._policy, self._where = policy, where
        self._deadline_s, self._is_given_up = deadline_s, is_given_up

    def dial(self, address: Address) -> DialedCamera:
        """Connect to one of a host's addresses, each in its turn; with TLS where the scheme is rtsps.

        Where the policy does not want certificates verified, TLS keeps out who listens, not who stands between.

        Raises:
            StreamError: Of class ``refused`` also where the policy forbids it; ``unreachable`` where nothing
                answers; ``tls``; ``timeout`` where the camera leaves TLS unanswered; ``ended`` where it was given up.
        """
        error_class, ips = "unreachable", self._resolve(address)
        for tried, ip in enumerate(ips):
            now_s = time.monotonic()
            try:
                sock = self._connect(ip, address.port or 0, now_s + (self._deadline_s - now_s) / (len(ips) - tried))
            except OSError as exc:
                error_class = "refused" if isinstance(exc, ConnectionError) else "unreachable"
                continue
            return DialedCamera(self._encrypt(sock, address) if address.scheme == "rtsps" else sock, ip)
        raise stream_error(error_class, where=self._where)

    def _resolve(self, address: Address) -> tuple[str, ...]:
        found: Future[tuple[str, ...]] = Future()

        def look_up() -> None:
            try:
                found.set_result(
                    resolve_and_check(address, self._policy, timeout_s=self._deadline_s - time.monotonic())
                )
            except Exception as exc:  # noqa: BLE001 - handed over to who waits
                found.set_exception(exc)

        # In a thread of its own, since nobody can end a look-up that hangs.
        threading.Thread(target=look_up, name="look-up", daemon=True).start()
        is_known = threading.Event()
        found.add_done_callback(lambda _: is_known.set())
        if not self._wait(is_known.wait, self._deadline_s):
            raise stream_error("unreachable", "The camera's name is not resolved in time", where=self._where)
        try:
            return found.result()
        except OSError:
            error = stream_error("unreachable", "The camera's name cannot be resolved", where=self._where)
        except MessageProcessingError as exc:
            error = stream_error("refused", exc.what, where=self._where, mend=exc.mend)
        raise error

    def _connect(self, ip: str, port: int, deadline_s: float) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = sock.connect_ex((ip, port))
            if code in _UNDER_WAY:
                if not self._wait_for(sock, selectors.EVENT_WRITE, deadline_s):
                    raise OSError(errno.EHOSTUNREACH, "no answer")
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, "cannot connect")
        except (OSError, StreamError):
            sock.close()
            raise
        return sock

    def _encrypt(self, sock: socket.socket, address: Address) -> ssl.SSLSocket:
        context = ssl.create_default_context()
        if not self._policy.verify_certificates:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        tls = context.wrap_socket(sock, server_hostname=address.host, do_handshake_on_connect=False)
        try:
            while (events := _step(tls)) is not None:
                if not self._wait_for(tls, events, self._deadline_s):
                    raise stream_error("timeout", "The camera does not answer the TLS handshake", where=self._where)
        except OSError:
            tls.close()
        except StreamError:
            tls.close()
            raise
        else:
            return tls
        raise stream_error("tls", where=self._where)

    def _wait_for(self, sock: socket.socket, events: int, deadline_s: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(sock, events)
            return self._wait(lambda timeout_s: bool(selector.select(timeout_s)), deadline_s)

    def _wait(self, is_ready: Callable[[float], bool], deadline_s: float) -> bool:
        """Wait until something is ready; False: not in time."""
        while not is_ready(max(0.0, min(_SLICE_S, deadline_s - time.monotonic()))):
            if self._is_given_up():
                raise given_up(self._where)
            if time.monotonic() >= deadline_s:
                return False
        return True


def given_up(where: str) -> StreamError:
    """Make the error for whoever was told to give up."""
    what, mend = "The connection was given up", "Nothing is wrong: it was ended on purpose, or is opened anew."
    return stream_error("ended", what, where=where, mend=mend)


def _step(tls: ssl.SSLSocket) -> int | None:
    """Go on with the handshake; return what must be waited for, None: it is done."""
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return selectors.EVENT_READ
    except ssl.SSLWantWriteError:
        return selectors.EVENT_WRITE
    return None
