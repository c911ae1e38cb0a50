"""Cameras over HTTP that answer as a test wants it, and readers of them."""

import asyncio
import ipaddress
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np
from aiohttp import web

from detector_worker.core.addresses import Address, NetworkPolicy
from detector_worker.core.clock import SystemClock
from detector_worker.core.frame import Frame
from detector_worker.streams.snapshot_reader import HTTPSnapshotReader

__all__ = [
    "NO_LOOPBACK",
    "Answer",
    "HTTPTestCamera",
    "abort_soon",
    "encoded",
    "http_camera",
    "multipart",
    "new_reader",
    "opened",
    "raw_camera",
    "read",
]

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
RawAnswer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

NO_LOOPBACK = NetworkPolicy(denied=(ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")))


def encoded(kind: str = ".jpg", *, grey: int = 0, hw: tuple[int, int] = (48, 64)) -> bytes:
    """A picture of one brightness."""
    return bytes(cv2.imencode(kind, np.full((*hw, 3), grey, np.uint8))[1])


def multipart(body: bytes, *, boundary: str = "--frame", length: bool = True) -> bytes:
    """One part as a camera should write it."""
    size = f"Content-Length: {len(body)}\r\n" if length else ""
    return f"{boundary}\r\nContent-Type: image/jpeg\r\n{size}\r\n".encode() + body + b"\r\n"


@dataclass
class HTTPTestCamera:
    """What a running camera was asked."""

    answer: Answer
    port: int = 0
    requests: list[web.Request] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)
    """The ports from which it was asked."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if request.transport is not None:
            self.connections.add(request.transport.get_extra_info("peername"))
        return await self.answer(request)


@asynccontextmanager
async def http_camera(answer: Answer, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[HTTPTestCamera]:
    """A real HTTP server on a free port, for any path."""
    camera = HTTPTestCamera(answer)
    app = web.Application()
    app.router.add_get("/{tail:.*}", camera.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        camera.port = runner.addresses[0][1]
        yield camera
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_camera(answer: RawAnswer) -> AsyncIterator[int]:
    """A TCP server that reads one request's header and then does as it likes; yields its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the reader has left, or the test is over
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def new_reader(
    port: int,
    *,
    url: str = "http://127.0.0.1:{port}/shot?token=canary-token",
    policy: NetworkPolicy | None = None,
    interval_s: float = 0.02,
    timeout_s: float = 2.0,
    stopping: threading.Event | None = None,
) -> HTTPSnapshotReader:
    """A reader of a camera on this machine, which is not yet connected."""
    return HTTPSnapshotReader(
        Address.parse(url.format(port=port), frozenset({"http", "https"})),
        "gate",
        stopping or threading.Event(),
        clock=SystemClock(),
        policy=policy or NetworkPolicy(),
        interval_s=interval_s,
        timeout_s=timeout_s,
    )


@contextmanager
def opened(reader: HTTPSnapshotReader) -> Iterator[HTTPSnapshotReader]:
    """Connect, and close afterwards."""
    reader.connect()
    try:
        yield reader
    finally:
        reader.close()


async def read(reader: HTTPSnapshotReader, frames: int = 1) -> list[Frame]:
    """Read in a thread of its own, as the product does, and close."""

    def work() -> list[Frame]:
        with opened(reader):
            return [frame for _ in range(frames) if (frame := reader.read_frame()) is not None]

    return await asyncio.to_thread(work)


def abort_soon(reader: HTTPSnapshotReader) -> list[float]:
    """Abort in another thread after a moment; the list that is returned will hold the monotonic time of that."""
    aborted_at_s: list[float] = []

    def work() -> None:
        aborted_at_s.append(time.monotonic())
        reader.abort()

    threading.Timer(0.2, work).start()
    return aborted_at_s
