"""An RTSP server whose cameras play their clips for ever, and misbehave when told to."""

import asyncio
import re
import secrets
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Final, Self

from detector_worker.core.exceptions import ServiceError
from detector_worker.simulator.clip import Clip, Picture
from detector_worker.simulator.rtp import CLOCK_HZ, RtpSender
from detector_worker.simulator.rtsp_messages import Request, read_request, response

__all__ = ["Fault", "RtspServer", "SentPicture", "same_film"]

_PICTURES_REMEMBERED: Final = 6000
_MAX_UNSENT_BYTES: Final = 4 * 2**20
_SESSION_TIMEOUT_S: Final = 60
_METHODS: Final = "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, SET_PARAMETER, TEARDOWN"
_SDP: Final = """v=0
o=- 0 1 IN IP4 0.0.0.0
s={name}
c=IN IP4 0.0.0.0
t=0 0
a=control:*
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 {format}
a=control:trackID=0
"""


class Fault(StrEnum):
    """What a camera does wrong."""

    REFUSE = "refuse"
    """It resets its connections, and each new one at its first request."""


@dataclass(frozen=True, slots=True)
class SentPicture:
    """Which moment of the film was sent when."""

    utc_s: float
    """Right after its last packet was written."""
    film_s: float
    """Seconds since the film's first beginning: each further round counts on."""


@dataclass(eq=False, slots=True)
class _Camera:
    """One camera of the server: its clip starts with its first client and runs on whoever watches."""

    clip: Clip
    fault: Fault | None = None
    started_s: float | None = None
    sent: deque[SentPicture] = field(default_factory=lambda: deque(maxlen=_PICTURES_REMEMBERED))


def same_film(clip: Clip, cameras: int = 1) -> dict[str, Clip]:
    """Return cameras ``cam-1`` to ``cam-N`` that all show one clip, as `RtspServer` takes them."""
    return {f"cam-{number}": clip for number in range(1, cameras + 1)}


class RtspServer:
    """Cameras on one port, H.264 over TCP. Owns the tasks of its connections.

    Use as an async context manager. Every client starts at once with the camera's last key frame and is
    paced by the clip's own times, so it stays behind the camera by as much. A client that does not read is dropped.

    Args:
        clips: What each camera shows, by its id, which is the path of its address.
        host: Address to listen on.
        port: 0 for any free one.
    """

    def __init__(self, clips: Mapping[str, Clip] | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.port = port
        self._host = host
        self._cameras = {camera_id: _Camera(clip) for camera_id, clip in (clips or {}).items()}
        self._tasks = asyncio.TaskGroup()
        self._connections: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(self._accept, self._host, self.port, start_serving=False)
        except OSError as exc:
            raise ServiceError(
                f"The RTSP server cannot listen: {exc.strerror}",
                where=f"{self._host}:{self.port}",
                mend="Name a free port with --port, or none: then one is found.",
            ) from exc
        self.port = self._server.sockets[0].getsockname()[1]
        await self._tasks.__aenter__()
        await self._server.start_serving()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.reset()
        await self._tasks.__aexit__(None, None, None)

    @property
    def urls(self) -> dict[str, str]:
        """Address of each camera by its id."""
        return {camera_id: self._url(camera_id) for camera_id in self._cameras}

    def add_camera(self, camera_id: str, clip: Clip) -> str:
        """Put up one camera more, and return its address.

        Raises:
            ValueError: There is one of this name.
        """
        if camera_id in self._cameras:
            raise ValueError(f"there is a camera {camera_id} already")
        self._cameras[camera_id] = _Camera(clip)
        return self._url(camera_id)

    def sent(self, camera_id: str) -> tuple[SentPicture, ...]:
        """Return a camera's newest pictures in the order of sending, to all its clients: the last 6000."""
        # Sorted, since the wall clock may have been set back.
        return tuple(sorted(self._cameras[camera_id].sent, key=lambda picture: picture.utc_s))

    def connected(self, camera_id: str) -> int:
        """How many connections a camera has."""
        return len(self._connections_of(self._cameras[camera_id]))

    def set_fault(self, camera_id: str, fault: Fault | None) -> None:
        """Make a camera misbehave from now on, or behave again with None."""
        camera = self._cameras[camera_id]
        camera.fault = fault
        if fault is Fault.REFUSE:
            for connection in self._connections_of(camera):
                connection.reset()

    def _url(self, camera_id: str) -> str:
        return f"rtsp://{self._host}:{self.port}/{camera_id}"

    def _connections_of(self, camera: _Camera) -> list["_Connection"]:
        return [connection for connection in self._connections if connection.camera is camera]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._server.is_serving():  # accepted by the loop just before the listening socket closed
            writer.transport.abort()
            return
        connection = _Connection(self._cameras, reader, writer)
        self._connections.add(connection)
        task = self._tasks.create_task(connection.serve())
        task.add_done_callback(lambda _: self._connections.discard(connection))


class _Connection:
    """One client: answers its requests and, from PLAY on, sends it the camera's clip."""

    def __init__(self, cameras: dict[str, _Camera], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.camera: _Camera | None = None
        self._cameras, self._reader, self._writer = cameras, reader, writer
        self._session = secrets.token_hex(8)
        self._channel: int | None = None
        self._is_playing = False

    async def serve(self) -> None:
        """Answer until the client leaves, misbehaves, or is reset."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    request = await read_request(self._reader)
                    camera = self.camera = self._cameras.get(request.path, self.camera)
                    if camera is not None and camera.fault is Fault.REFUSE:
                        self.reset()
                        raise EOFError
                    status, headers, body = self._answer(request, camera)
                    self._writer.write(response(request, status, headers, body))
                    if request.method == "TEARDOWN":
                        raise EOFError
                    if request.method == "PLAY" and status == 200 and camera is not None and not self._is_playing:
                        self._is_playing = True
                        tasks.create_task(self._send_clip(camera, RtpSender(self._channel or 0)))
        except* (EOFError, ValueError, OSError):
            pass  # the client's end of the connection; nobody else is concerned
        finally:
            self._writer.transport.abort()

    def reset(self) -> None:
        """End the connection the hard way: what is unsent is lost and the client is told by a TCP reset."""
        sock = self._writer.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def _answer(self, request: Request, camera: _Camera | None) -> tuple[int, dict[str, str], str]:
        """Return status, headers and body."""
        status, headers, body = 200, {"Session": self._session}, ""
        match request.method:
            case "OPTIONS":
                headers = {"Public": _METHODS}
            case "DESCRIBE" if camera is not None:
                headers = {"Content-Base": request.url.rstrip("/") + "/", "Content-Type": "application/sdp"}
                body = _SDP.format(name=request.path, format=camera.clip.sdp_format()).replace("\n", "\r\n")
            case _ if camera is None:
                status = 404
            case "SETUP":
                status, headers = self._set_up(request.headers.get("transport", ""))
            case "PLAY" if self._channel is None:
                status = 454
            case "PLAY" | "GET_PARAMETER" | "SET_PARAMETER" | "TEARDOWN":
                pass
            case _:
                status = 501
        return status, headers, body

    def _set_up(self, wanted: str) -> tuple[int, dict[str, str]]:
        """Accept RTP inside this connection, nothing else."""
        if "TCP" not in wanted.upper():
            return 461, {}
        asked = re.search(r"interleaved=(\d{1,3})", wanted)
        self._channel = int(asked[1]) & 0xFE if asked else 0
        transport = f"RTP/AVP/TCP;unicast;interleaved={self._channel}-{self._channel + 1}"
        return 200, {"Transport": transport, "Session": f"{self._session};timeout={_SESSION_TIMEOUT_S}"}

    async def _send_clip(self, camera: _Camera, sender: RtpSender) -> None:
        """Send picture after picture, each when it is due; raise OSError where the client does not read."""
        loop, clip = asyncio.get_running_loop(), camera.clip
        camera.started_s = loop.time() if camera.started_s is None else camera.started_s
        turn, position_s = divmod(loop.time() - camera.started_s, clip.duration_s)
        first = clip.key_at(position_s)
        offset_s = loop.time() - turn * clip.duration_s - clip.pictures[first].send_s
        for film_s, timestamp, picture in _looped(clip, int(turn), first):
            await asyncio.sleep(max(0.0, offset_s + film_s - loop.time()))
            self._writer.writelines(sender.packets(picture.payloads, timestamp, due_s=film_s, utc_s=time.time()))
            if self._writer.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
                raise OSError("the client does not read")
            if self._writer.is_closing():
                raise EOFError
            camera.sent.append(SentPicture(time.time(), film_s))


def _looped(clip: Clip, first_turn: int, first: int) -> Iterator[tuple[float, int, Picture]]:
    """Yield pictures with their seconds of the film and RTP timestamps, both growing through all rounds."""
    for turn in count(first_turn):
        shift_s = turn * clip.duration_s
        for picture in clip.pictures[first if turn == first_turn else 0 :]:
            yield shift_s + picture.send_s, round(shift_s * CLOCK_HZ) + picture.timestamp, picture
