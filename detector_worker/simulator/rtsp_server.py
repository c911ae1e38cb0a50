"""An RTSP server whose cameras play a clip for ever, and misbehave when told to."""

import asyncio
import re
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Final, Self

from detector_worker.core.exceptions import ServiceError
from detector_worker.simulator.clip import Clip, Picture
from detector_worker.simulator.rtp import CLOCK_HZ, interleaved_packet, sender_report
from detector_worker.simulator.rtsp_messages import Request, read_request, response

__all__ = ["Fault", "RtspServer"]

_MAX_UNSENT_BYTES: Final = 4 * 2**20
_REPORT_EVERY_S: Final = 5.0
_SESSION_TIMEOUT_S: Final = 60
_METHODS: Final = "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, SET_PARAMETER, TEARDOWN"


class Fault(StrEnum):
    """What a camera does wrong."""

    REFUSE = "refuse"
    """It resets its connections, and each new one at its first request."""


@dataclass(eq=False, slots=True)
class _Camera:
    """One camera of the server: its clip starts with its first client and runs on whoever watches."""

    camera_id: str
    fault: Fault | None = None
    started_s: float | None = None
    connections: set["_Connection"] = field(default_factory=set)


class RtspServer:
    """Cameras ``cam-1`` to ``cam-N`` on one port, H.264 over TCP. Owns the tasks of its connections.

    Use as an async context manager. Every client starts at once with the camera's last key frame and is
    paced by the clip's own times. A client that does not read is dropped.
    """

    def __init__(self, clip: Clip, *, cameras: int = 1, host: str = "127.0.0.1", port: int = 0) -> None:
        self._clip, self._host, self._port = clip, host, port
        self._cameras = {f"cam-{number}": _Camera(f"cam-{number}") for number in range(1, cameras + 1)}
        self._resources = AsyncExitStack()
        self._connections = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        try:
            server = await asyncio.start_server(self._accept, self._host, self._port)
        except OSError as exc:
            raise ServiceError(
                f"The RTSP server cannot listen: {exc.strerror}",
                where=f"{self._host}:{self._port}",
                mend="Name a free port with --port, or none: then one is found.",
            ) from exc
        self._port = server.sockets[0].getsockname()[1]
        await self._resources.enter_async_context(self._connections)
        self._resources.callback(self._drop_connections)
        self._resources.callback(server.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._resources.aclose()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def urls(self) -> dict[str, str]:
        """Address of each camera by its id."""
        return {camera_id: f"rtsp://{self._host}:{self._port}/{camera_id}" for camera_id in self._cameras}

    def connected(self, camera_id: str) -> int:
        """How many connections a camera has."""
        return len(self._cameras[camera_id].connections)

    def set_fault(self, camera_id: str, fault: Fault | None) -> None:
        """Make a camera misbehave from now on, or behave again with None."""
        camera = self._cameras[camera_id]
        camera.fault = fault
        if fault is Fault.REFUSE:
            for connection in tuple(camera.connections):
                connection.reset()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closed:  # accepted by the loop just before the listening socket closed
            writer.transport.abort()
            return
        task = self._connections.create_task(_Connection(self._clip, self._cameras, reader, writer).serve())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _drop_connections(self) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()


class _Connection:
    """One client: answers its requests and, from PLAY on, sends it the clip."""

    def __init__(
        self, clip: Clip, cameras: dict[str, _Camera], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._clip, self._cameras, self._reader, self._writer = clip, cameras, reader, writer
        self._camera: _Camera | None = None
        self._session = secrets.token_hex(8)
        self._channel: int | None = None
        self._playing: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Answer until the client leaves, misbehaves, or is reset."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while (request := await read_request(self._reader)).method != "TEARDOWN":
                    self._answer(request, tasks)
                self._writer.write(response(request, 200, {"Session": self._session}))
                if self._playing is not None:
                    self._playing.cancel()
        except* (EOFError, ValueError, OSError):
            pass  # the client's end of the connection; nobody else is concerned
        finally:
            if self._camera is not None:
                self._camera.connections.discard(self)
            self._writer.transport.abort()

    def reset(self) -> None:
        """End the connection the hard way: what is unsent is lost and the client is told by a TCP reset."""
        sock = self._writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def _answer(self, request: Request, tasks: asyncio.TaskGroup) -> None:
        camera = self._cameras.get(request.path)
        if camera is not None and self._camera is None:
            self._camera = camera
            camera.connections.add(self)
        if camera is not None and camera.fault is Fault.REFUSE:
            self.reset()
            return
        if camera is None and request.method != "OPTIONS":
            self._respond(request, 404)
            return
        match request.method:
            case "OPTIONS":
                self._respond(request, 200, {"Public": _METHODS})
            case "DESCRIBE":
                self._describe(request)
            case "SETUP":
                self._set_up(request)
            case "PLAY" if camera is not None:
                self._play(request, camera, tasks)
            case "GET_PARAMETER" | "SET_PARAMETER":
                self._respond(request, 200, {"Session": self._session})
            case _:
                self._respond(request, 501)

    def _respond(self, request: Request, status: int, headers: dict[str, str] | None = None, body: str = "") -> None:
        self._writer.write(response(request, status, headers or {}, body))

    def _describe(self, request: Request) -> None:
        width, height = self._clip.wh
        lines = (
            "v=0",
            f"o=- {int(time.time())} 1 IN IP4 0.0.0.0",
            f"s={request.path}",
            "c=IN IP4 0.0.0.0",
            "t=0 0",
            "a=control:*",
            "m=video 0 RTP/AVP 96",
            f"a=rtpmap:96 H264/{CLOCK_HZ}",
            f"a=fmtp:96 {self._clip.sdp_format()}",
            f"a=framesize:96 {width}-{height}",
            "a=control:trackID=0",
        )
        headers = {"Content-Base": request.url.rstrip("/") + "/", "Content-Type": "application/sdp"}
        self._respond(request, 200, headers, "".join(f"{line}\r\n" for line in lines))

    def _set_up(self, request: Request) -> None:
        """Accept RTP inside this connection, nothing else."""
        wanted = request.headers.get("transport", "")
        if "TCP" not in wanted.upper():
            self._respond(request, 461)
            return
        asked = re.search(r"interleaved=(\d{1,3})", wanted)
        self._channel = int(asked[1]) & 0xFE if asked else 0
        transport = f"RTP/AVP/TCP;unicast;interleaved={self._channel}-{self._channel + 1}"
        session = f"{self._session};timeout={_SESSION_TIMEOUT_S}"
        self._respond(request, 200, {"Transport": transport, "Session": session})

    def _play(self, request: Request, camera: _Camera, tasks: asyncio.TaskGroup) -> None:
        if self._channel is None:
            self._respond(request, 454)
            return
        self._respond(request, 200, {"Session": self._session, "Range": "npt=0-"})
        if self._playing is None:
            self._playing = tasks.create_task(self._send_clip(camera, self._channel))

    async def _send_clip(self, camera: _Camera, channel: int) -> None:
        """Send picture after picture, each when it is due; raise OSError where the client does not read."""
        loop = asyncio.get_running_loop()
        camera.started_s = loop.time() if camera.started_s is None else camera.started_s
        sender = _RtpSender(channel)
        offset_s: float | None = None
        for due_s, timestamp, picture in self._looped((loop.time() - camera.started_s) % self._clip.duration_s):
            offset_s = loop.time() - due_s if offset_s is None else offset_s
            await asyncio.sleep(max(0.0, offset_s + due_s - loop.time()))
            self._writer.writelines(sender.packets(picture, timestamp, due_s))
            if self._writer.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
                raise OSError("the client does not read")
            if self._writer.is_closing():
                raise EOFError

    def _looped(self, position_s: float) -> Iterator[tuple[float, int, Picture]]:
        """Yield pictures with their due times and RTP timestamps, both growing through all rounds."""
        first = self._clip.key_at(position_s)
        for turn in count():
            pictures = self._clip.pictures[first:] if turn == 0 else self._clip.pictures
            for picture in pictures:
                shift_s = turn * self._clip.duration_s
                yield shift_s + picture.send_s, round(shift_s * CLOCK_HZ) + picture.timestamp, picture


class _RtpSender:
    """One RTP stream: counts its packets and adds a sender report in time, the first before all else."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._ssrc, self._sequence = secrets.randbits(32), secrets.randbits(16)
        self._base = secrets.randbits(32)
        self._sent, self._sent_bytes = 0, 0
        self._next_report_s = 0.0

    def packets(self, picture: Picture, timestamp: int, due_s: float) -> list[bytes]:
        """Return what is to be written for one picture, whose moment of sending is ``due_s`` in the clip's time."""
        written: list[bytes] = []
        if due_s >= self._next_report_s:
            self._next_report_s = due_s + _REPORT_EVERY_S
            written.append(
                sender_report(
                    channel=self._channel + 1,
                    ssrc=self._ssrc,
                    utc_s=time.time(),
                    timestamp=self._base + round(due_s * CLOCK_HZ),
                    packets=self._sent,
                    payload_bytes=self._sent_bytes,
                )
            )
        for payload in picture.payloads:
            written += interleaved_packet(
                payload,
                channel=self._channel,
                sequence=self._sequence + self._sent,
                timestamp=self._base + timestamp,
                ssrc=self._ssrc,
                ends_picture=payload is picture.payloads[-1],
            )
            self._sent += 1
            self._sent_bytes += len(payload)
        return written
