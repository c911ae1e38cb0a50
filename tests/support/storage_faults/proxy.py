"""Stands between a client and a server, and loses what it is told to lose."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import Final, Self

__all__ = ["FaultyProxy", "Loss"]

_CHUNK_BYTES: Final = 1 << 16


class Loss(Enum):
    """What a proxy does to connections."""

    NOTHING = auto()
    ANSWERS = auto()
    """Requests go through, answers are lost, the connection stays open."""
    EVERYTHING = auto()
    """Nothing goes either way, the connection stays open: a cable that was pulled."""
    CONNECTIONS = auto()
    """It is cut."""


class FaultyProxy:
    """Forwards ``port`` of the loopback to a server's Unix socket. Used on one event loop."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._loss, self._after = Loss.NOTHING, tuple[bytes, ...]()
        self._links: dict[_Link, asyncio.Task[None]] = {}
        self.port = 0

    def begin(self, loss: Loss, *, after: Sequence[bytes]) -> None:
        """Lose that from now on: each connection once one of these parts of requests went through, such as COMMIT."""
        self._loss, self._after = loss, tuple(after)
        for link in self._links:
            link.suffer(loss, after)

    def end(self) -> None:
        """Treat new connections well; the old ones stay as they are, since what they lost does not come back."""
        self.begin(Loss.NOTHING, after=())

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for link in self._links:
            link.cut()
        await asyncio.gather(*self._links.values())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, requests = await asyncio.open_unix_connection(self._socket)
        except OSError:  # it is dead: so is the connection
            writer.transport.abort()
            return
        link, task = _Link(writer, requests), asyncio.current_task()
        assert task is not None
        link.suffer(self._loss, self._after)
        self._links[link] = task
        try:
            await asyncio.gather(link.forward_requests(reader), link.forward_answers(answers))
        finally:
            link.cut()
            del self._links[link]


class _Link:
    """One connection through the proxy."""

    def __init__(self, to_client: asyncio.StreamWriter, to_server: asyncio.StreamWriter) -> None:
        self._to_client, self._to_server = to_client, to_server
        self._loss = self._next_loss = Loss.NOTHING
        self._after: Sequence[bytes] = ()

    def suffer(self, loss: Loss, after: Sequence[bytes]) -> None:
        """Lose that once one of these went through; what is being lost already, stays lost."""
        self._next_loss, self._after = loss, after

    def cut(self) -> None:
        """End it in both directions at once."""
        for writer in (self._to_client, self._to_server):
            writer.transport.abort()

    async def forward_requests(self, reader: asyncio.StreamReader) -> None:
        """Carry what the client sends; when it goes, so does the connection to the server."""
        while data := await _read(reader):
            if self._loss is Loss.NOTHING and any(part in data for part in self._after):
                self._loss = self._next_loss
            if self._loss is not Loss.EVERYTHING:
                await _write(self._to_server, data)
            if self._loss is Loss.CONNECTIONS:
                break
        self.cut()

    async def forward_answers(self, reader: asyncio.StreamReader) -> None:
        """Carry what the server sends; when it goes, so does the connection to the client."""
        while data := await _read(reader):
            if self._loss is Loss.NOTHING:
                await _write(self._to_client, data)
        self.cut()


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_CHUNK_BYTES)
    except OSError:
        return b""


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    with suppress(OSError):
        writer.write(data)
        await writer.drain()
