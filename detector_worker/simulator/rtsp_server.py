"""An RTSP server whose cameras play their clips for ever, and misbehave when told to."""

import asyncio
from collections.abc import Mapping
from typing import Self

from detector_worker.core.exceptions import ServiceError
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.credentials import Credentials, Scheme
from detector_worker.simulator.faults import Fault
from detector_worker.simulator.rtsp_camera import RtspCamera
from detector_worker.simulator.rtsp_connection import RtspConnection
from detector_worker.simulator.screen import Screen, SentPicture

__all__ = ["Fault", "RtspServer", "SentPicture", "same_film"]


def same_film(clip: Clip, cameras: int = 1) -> dict[str, Clip]:
    """Return cameras ``cam-1`` to ``cam-N`` that all show one clip, as `RtspServer` takes them."""
    return {f"cam-{number}": clip for number in range(1, cameras + 1)}


class RtspServer:
    """Cameras on one port, over TCP. Owns the tasks of its connections.

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
        self._cameras = {camera_id: RtspCamera(camera_id, Screen(clip)) for camera_id, clip in (clips or {}).items()}
        self._tasks = asyncio.TaskGroup()
        self._connections: set[RtspConnection] = set()

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
        """Address of each camera by its id, without user and password."""
        return {camera_id: self._url(camera_id) for camera_id in self._cameras}

    def add_camera(self, camera_id: str, clip: Clip) -> str:
        """Put up one camera more, and return its address.

        Raises:
            ValueError: There is one of this name.
        """
        if camera_id in self._cameras:
            raise ValueError(f"there is a camera {camera_id} already")
        self._cameras[camera_id] = RtspCamera(camera_id, Screen(clip))
        return self._url(camera_id)

    def screen(self, camera_id: str) -> Screen:
        """Return what a camera shows, so that a `SnapshotServer` can show the same at the same moment."""
        return self._cameras[camera_id].screen

    def sent(self, camera_id: str) -> tuple[SentPicture, ...]:
        """Return a camera's newest pictures in the order of sending, to all its clients: the last 6000."""
        return self._cameras[camera_id].screen.sent

    def connected(self, camera_id: str) -> int:
        """How many connections a camera has."""
        return len(self._connections_of(self._cameras[camera_id]))

    def set_fault(self, camera_id: str, fault: Fault | None) -> None:
        """Make a camera misbehave from now on, or behave again with None: new connections at once.

        Where a stream was interrupted, a running one goes on with the next key frame.
        """
        camera = self._cameras[camera_id]
        camera.fault, camera.fault_since_s = fault, asyncio.get_running_loop().time()
        if fault is Fault.REFUSE:
            for connection in self._connections_of(camera):
                connection.reset()

    def set_credentials(self, camera_id: str, user: str, password: str, *, scheme: Scheme = "digest") -> None:
        """Let a camera ask every request for these; who is watching goes on."""
        self._cameras[camera_id].credentials = Credentials(user, password, scheme)

    def set_clock_offset(self, camera_id: str, clock_offset_s: float) -> None:
        """Set a camera's wall clock, which its sender reports tell: so many seconds ahead of the true time."""
        self._cameras[camera_id].clock_offset_s = clock_offset_s

    def switch_clip(self, camera_id: str, clip: Clip) -> None:
        """Let a camera show another clip from its beginning; running connections go over too, and their time goes on.

        Raises:
            ValueError: It has another codec.
        """
        self._cameras[camera_id].screen.switch(clip, asyncio.get_running_loop().time())

    def _url(self, camera_id: str) -> str:
        return f"rtsp://{self._host}:{self.port}/{camera_id}"

    def _connections_of(self, camera: RtspCamera) -> list[RtspConnection]:
        return [connection for connection in self._connections if connection.camera is camera]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._server.is_serving():  # accepted by the loop just before the listening socket closed
            writer.transport.abort()
            return
        connection = RtspConnection(self._cameras, reader, writer)
        self._connections.add(connection)
        task = self._tasks.create_task(connection.serve())
        task.add_done_callback(lambda _: self._connections.discard(connection))
