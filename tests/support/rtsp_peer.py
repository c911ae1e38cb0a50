"""Cameras whose every byte a test decides, and traps for who connects where it must not."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from detector_worker.core.addresses import Address

__all__ = ["SDP", "RtspPeer", "Trap", "deaf_camera", "ok", "parse_camera", "rtsp_peer", "trap"]

SDP: Final = "v=0\r\no=- 1 1 IN IP4 0\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
_FIELDS: Final = {
    "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n",
    "SETUP": "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n",
}


@dataclass
class RtspPeer:
    """What such a camera has seen."""

    port: int = 0
    heads: list[str] = field(default_factory=list)
    """Of all requests, in their order."""
    connections: int = 0
    open: int = 0

    @property
    def methods(self) -> list[str]:
        return [head.split(" ", 1)[0] for head in self.heads]


def ok(method: str) -> bytes:
    """Return the answer of a camera that is content."""
    body = SDP if method == "DESCRIBE" else ""
    return f"RTSP/1.0 200 OK\r\nCSeq: 0\r\n{_FIELDS.get(method, '')}\r\n{body}".encode()


@asynccontextmanager
async def rtsp_peer(
    answer: Callable[[str], bytes | None], *, chunk_bytes: int | None = None
) -> AsyncIterator[RtspPeer]:
    """Serve a camera on a free port.

    Args:
        answer: Gets a request's method and returns what is sent, with ``CSeq: 0`` where the request's number
            belongs; None: nothing; empty: the connection is reset.
        chunk_bytes: Cuts what is sent into pieces of so many bytes, each a packet of its own.
    """
    peer, writers = RtspPeer(), set[asyncio.StreamWriter]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        peer.connections += 1
        peer.open += 1
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(EOFError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                peer.heads.append(head)
                data = answer(head.split(" ", 1)[0])
                if data == b"":
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    break
                data = (data or b"").replace(b"CSeq: 0", f"CSeq: {_number(head)}".encode())
                for at in range(0, len(data), chunk_bytes or max(1, len(data))):
                    writer.write(data[at : at + (chunk_bytes or len(data))])
                    await writer.drain()
                    if chunk_bytes:
                        await asyncio.sleep(0)
        writer.transport.abort()
        peer.open -= 1

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        peer.port = server.sockets[0].getsockname()[1]
        yield peer
        for writer in writers:
            writer.transport.abort()


class Trap:
    """A port that nobody may connect to."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.port: int = listening.getsockname()[1]

    def was_entered(self) -> bool:
        """Whether somebody has connected."""
        with suppress(BlockingIOError):
            self._listening.accept()[0].close()
            return True
        return False


@contextmanager
def trap(host: str = "127.0.0.2") -> Iterator[Trap]:
    """Listen where nobody may connect."""
    with socket.create_server((host, 0)) as listening:
        listening.setblocking(False)
        yield Trap(listening)


@contextmanager
def deaf_camera() -> Iterator[int]:
    """A port to which connecting takes for ever, as behind a firewall: its queue of new connections is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, socket.socket() as first:
        first.connect(listening.getsockname())
        yield listening.getsockname()[1]


def parse_camera(url: str) -> Address:
    """Return a camera's address with the canary's password."""
    return Address.parse(url.replace("://", "://viewer:canary-password@"), frozenset({"rtsp", "rtsps"}))


def _number(head: str) -> str:
    return next(line.split(":")[1].strip() for line in head.split("\r\n") if line.lower().startswith("cseq"))
