"""Stands between a client and a server on a Unix socket: speaks TLS for it, or falls silent."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

__all__ = ["Front", "front"]


class Front:
    """Forwards a port of the loopback. Used on one event loop."""

    port = 0

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._links: set[asyncio.Task[None]] = set()
        self._silent: set[asyncio.Task[None]] = set()

    def silence(self) -> None:
        """Lose what goes over the present connections and keep them open; new ones are treated well."""
        self._silent.update(self._links)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection to its end."""
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        answers, requests = await asyncio.open_unix_connection(self._socket)
        await asyncio.gather(self._pump(reader, requests, link), self._pump(answers, writer, link))
        self._links.discard(link)

    async def end(self) -> None:
        """Return once all connections have ended, as they do with their clients."""
        if self._links:
            _, open_still = await asyncio.wait(tuple(self._links), timeout=5)
            assert not open_still

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, link: asyncio.Task[None]) -> None:
        with suppress(OSError):
            while block := await source.read(1 << 16):
                if link not in self._silent:
                    target.write(block)
                    await target.drain()
        target.close()
        with suppress(OSError):
            await target.wait_closed()


@asynccontextmanager
async def front(socket: Path, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Front]:
    """Serve what listens on a Unix socket on 127.0.0.1, by TLS where a context is given."""
    new = Front(socket)
    async with await asyncio.start_server(new.serve, "127.0.0.1", 0, ssl=tls) as server:
        new.port = server.sockets[0].getsockname()[1]
        yield new
        await new.end()
