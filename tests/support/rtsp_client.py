"""An RTSP client that sees every byte, and one that sees what FFmpeg makes of them."""

import asyncio
from dataclasses import dataclass
from urllib.parse import urlsplit

import av
import numpy as np
from support.tiny_clip import read_frame_number

__all__ = ["RtspClient", "WatchedPicture", "watch"]


class RtspClient:
    """One connection."""

    def __init__(self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.url, self.reader, self.writer = url, reader, writer
        self._cseq = 0

    @classmethod
    async def connect(cls, url: str) -> "RtspClient":
        parts = urlsplit(url)
        return cls(url, *await asyncio.open_connection(parts.hostname, parts.port))

    async def ask(self, method: str, path: str = "", **headers: str) -> tuple[int, str]:
        """Send a request; return status and headers, as text."""
        self._cseq += 1
        lines = [f"{method} {self.url}{path} RTSP/1.0", f"CSeq: {self._cseq}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        assert f"CSeq: {self._cseq}\r\n" in head
        return int(head.split()[1]), head

    async def read_packet(self) -> tuple[int, bytes]:
        """Read one interleaved packet: its channel and content."""
        header = await self.reader.readexactly(4)
        assert header[:1] == b"$"
        return header[1], await self.reader.readexactly(int.from_bytes(header[2:], "big"))

    async def read_to_the_end(self) -> None:
        """Read until the server ends the connection, which raises."""
        while True:
            await self.read_packet()

    async def play(self) -> None:
        await self.ask("SETUP", "/trackID=0", Transport="RTP/AVP/TCP;unicast;interleaved=0-1")
        await self.ask("PLAY")

    def close(self) -> None:
        self.writer.transport.abort()


@dataclass(frozen=True)
class WatchedPicture:
    """A decoded picture of a tiny clip."""

    number: int
    pts: int | None
    wh: tuple[int, int]
    is_corrupt: bool


def watch(url: str, pictures: int) -> list[WatchedPicture]:
    """Watch so many pictures with FFmpeg over TCP; raises av.FFmpegError, as the watcher of a faulty camera must."""
    seen: list[WatchedPicture] = []
    options = {"rtsp_transport": "tcp", "fpsprobesize": "0"}
    with av.open(url, options=options, timeout=(5, 5)) as container:
        for frame in container.decode(video=0):
            number = read_frame_number(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8))
            seen.append(WatchedPicture(number, frame.pts, (frame.width, frame.height), frame.is_corrupt))
            if len(seen) == pictures:
                break
    return seen
