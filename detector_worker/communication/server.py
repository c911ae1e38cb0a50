"""The web server around the application, with the settings that measurements asked for."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from detector_worker.communication.requests import MAX_MESSAGE_BYTES
from detector_worker.core.exceptions import ConfigurationError

__all__ = ["WorkerServer", "open_listener"]

_UNREAD_TIMEOUT_MS = 30_000


def open_listener(host: str, port: int) -> socket.socket:
    """Take a port, before anything else is started; port 0 takes any free one.

    Raises:
        ConfigurationError: It is busy, not permitted, or the host is none of this machine's.
    """
    where = f"server.host {host}, server.port {port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise ConfigurationError(f"The host cannot be used: {exc.strerror}", where=where, mend="Change it.") from exc
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # A client that reads nothing keeps its socket for ever, since closing it waits for what is unsent.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_TIMEOUT_MS)
        listener.bind(address)
        listener.listen(1024)
    except OSError as exc:
        listener.close()
        what = "The port is busy" if exc.errno == errno.EADDRINUSE else f"The port cannot be used: {exc.strerror}"
        raise ConfigurationError(what, where=where, mend="Stop who uses it, or choose another with --port.") from exc
    return listener


class WorkerServer(uvicorn.Server):
    """Serves the application; the lifespan is the caller's business, so that its errors stay what they are."""

    def __init__(
        self,
        app: FastAPI,
        *,
        on_ready: Callable[[], None],
        before_stop: Callable[[], Awaitable[None]],
        stop_timeout_s: int = 3,
    ) -> None:
        """Run it with ``serve([listener])``; ``before_stop`` is awaited at the first signal, a second stops at once."""
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="websockets-sansio",
                # Above our own limit, so that a message only somewhat too large is answered; beyond it, close 1009.
                ws_max_size=4 * MAX_MESSAGE_BYTES,
                ws_per_message_deflate=False,
                ws_ping_interval=20,
                ws_ping_timeout=20,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=stop_timeout_s,
            )
        )
        self._on_ready, self._before_stop = on_ready, before_stop
        self._leaving: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn would raise the signal again once it has ended; ours is an orderly end.
        self._loop.call_soon_threadsafe(self.leave)

    def leave(self) -> None:
        """Take leave of the clients, then stop; the second time stop at once. On the event loop."""
        if self._leaving is None:
            self._leaving = self._loop.create_task(self._leave(), name="leave")
        else:
            self.should_exit = self.force_exit = True

    async def _leave(self) -> None:
        try:
            await self._before_stop()
        finally:
            self.should_exit = True
