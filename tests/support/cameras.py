"""What tests of streams share: a record of what a manager tells, and cameras that say nothing."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.frame import Frame

__all__ = ["FrameLog", "StatusLog", "scripted_camera", "silent_camera", "wait_until"]

_SDP: Final = "v=0\r\no=- 1 1 IN IP4 0\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"


class StatusLog:
    """Takes a manager's statuses, on the event loop."""

    def __init__(self) -> None:
        self.history: list[StreamStatus] = []
        self.all: list[StreamStatus] = []
        """Those that nobody has waited for."""
        self._changed = asyncio.Event()

    def __call__(self, status: StreamStatus) -> None:
        self.history.append(status)
        self.all.append(status)
        self._changed.set()

    async def wait_for(
        self, state: StreamState, *, camera_id: str | None = None, timeout_s: float = 10
    ) -> StreamStatus:
        """Return the next status of this state, and pass over what its camera told before."""
        async with asyncio.timeout(timeout_s):
            while True:
                for index, status in enumerate(self.all):
                    if status.state is state and camera_id in (None, status.camera_id):
                        earlier = [one for one in self.all[:index] if one.camera_id != status.camera_id]
                        self.all = earlier + self.all[index + 1 :]
                        return status
                self._changed.clear()
                await self._changed.wait()


class FrameLog:
    """Takes frames in a reader's thread and hands them to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._frames: asyncio.Queue[Frame] = asyncio.Queue()

    def __call__(self, frame: Frame) -> None:
        with suppress(RuntimeError):  # the test is over
            self._loop.call_soon_threadsafe(self._frames.put_nowait, frame)

    async def take(self, number: int, *, timeout_s: float = 10) -> list[Frame]:
        """Wait for this many frames."""
        async with asyncio.timeout(timeout_s):
            return [await self._frames.get() for _ in range(number)]

    def waiting(self) -> int:
        """How many frames have come that nobody took."""
        return self._frames.qsize()


@asynccontextmanager
async def silent_camera() -> AsyncIterator[int]:
    """A port that is connected to and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@asynccontextmanager
async def scripted_camera(set_up: Callable[[str], str]) -> AsyncIterator[int]:
    """A camera that answers RTSP, but never sends a picture.

    Args:
        set_up: Gets SETUP's transport, returns status and headers of the answer.
    """
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(EOFError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                status, body = "200 OK\r\nSession: 1", ""
                if head.startswith("DESCRIBE"):
                    body = _SDP
                    status += f"\r\nContent-Type: application/sdp\r\nContent-Length: {len(body)}"
                if head.startswith("SETUP"):
                    status = set_up(fields["Transport"])
                writer.write(f"RTSP/1.0 {status}\r\nCSeq: {fields['CSeq']}\r\n\r\n{body}".encode())

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]
        for writer in writers:
            writer.transport.abort()


async def wait_until(condition: Callable[[], bool], *, timeout_s: float = 5) -> None:
    """Wait for something of which no event tells."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come true in time"
        await asyncio.sleep(0.02)
