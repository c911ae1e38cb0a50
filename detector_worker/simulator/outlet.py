"""The way to one client: what is written leaves at once, or a byte at a time, or never."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["DRIP_EVERY_S", "Outlet", "reset"]

DRIP_EVERY_S: Final = 0.5
"""Between two bytes of a camera that drips."""
_MAX_UNSENT_BYTES: Final = 4 * 2**20
_CLOSE_S: Final = 1.0


def reset(transport: asyncio.BaseTransport) -> None:
    """End a connection the hard way: what is unsent is lost and the client is told by a TCP reset."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


class Outlet:
    """Writes to one client. Belongs to the event loop; never waits for the client."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._held = bytearray()
        """What waits behind a drip."""

    def write(self, parts: Iterable[bytes]) -> None:
        """Send, behind whatever is still dripping.

        Raises:
            OSError: The client does not read.
            EOFError: It has gone.
        """
        if self._held:
            self._held += b"".join(parts)
        else:
            self._writer.writelines(parts)
        if self._writer.transport.get_write_buffer_size() + len(self._held) > _MAX_UNSENT_BYTES:
            raise OSError("the client does not read")
        if self._writer.is_closing():
            raise EOFError

    async def drip(self, parts: Iterable[bytes], *, as_long_as: Callable[[], bool]) -> None:
        """Send a byte every half second; once it is no longer to drip, the rest at once."""
        self._held += b"".join(parts)
        while self._held and as_long_as():
            self._writer.write(self._held[:1])
            del self._held[:1]
            await asyncio.sleep(DRIP_EVERY_S)
        rest = bytes(self._held)
        self._held.clear()
        self.write((rest,))

    async def close(self) -> None:
        """End the connection in order, or after a second without."""
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            self.abort()

    def abort(self) -> None:
        """End the connection now; what is unsent is lost."""
        self._writer.transport.abort()

    def reset(self) -> None:
        """As `abort`, and the client is told by a TCP reset."""
        reset(self._writer.transport)
