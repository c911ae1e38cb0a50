"""A TLS front for a PostgreSQL that speaks none: the embedded server is built without it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["postgresql_front"]

_SSL_REQUEST: Final = bytes.fromhex("00000008 04d2162f")


@asynccontextmanager
async def postgresql_front(
    socket: Path, certificate: tuple[Path, Path], *, clients: Path | None = None
) -> AsyncIterator[int]:
    """Serve a server's Unix socket on 127.0.0.1 to those who ask for TLS, and give the port.

    ``clients``: the authority of those who may connect; None: anybody may.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while block := await reader.read(1 << 16):
                writer.write(block)
                await writer.drain()
        writer.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            assert await reader.readexactly(8) == _SSL_REQUEST
            writer.write(b"S")
            await writer.start_tls(context)
            inner_reader, inner_writer = await asyncio.open_unix_connection(socket)
            await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
