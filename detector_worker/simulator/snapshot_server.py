"""A web server whose cameras give single pictures and Motion JPEG, and misbehave when told to."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, Self
from urllib.parse import quote

from aiohttp import web

from detector_worker.simulator.broken_pictures import claiming
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.credentials import Credentials, Scheme
from detector_worker.simulator.faults import SnapshotFault
from detector_worker.simulator.listening import start_listening
from detector_worker.simulator.outlet import DRIP_EVERY_S, reset
from detector_worker.simulator.screen import Screen, SentPicture
from detector_worker.simulator.snapshot_camera import SnapshotCamera
from detector_worker.simulator.still_pictures import ImageKind, Still

__all__ = ["SnapshotFault", "SnapshotServer"]

_SHUTDOWN_S: Final = 0.1
_CLAIMED_WH: Final = (10_000, 10_000)
_ENDLESS_CHUNK: Final = bytes(65_536)
_SILENT_CHECK_S: Final = 0.1
_BOUNDARY: Final = "picture"
_STREAM_TYPE: Final = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
_NOBODY: Final = Credentials("", "")
_STATUS: Final = {
    SnapshotFault.UNAUTHORIZED: 401,
    SnapshotFault.NOT_FOUND: 404,
    SnapshotFault.SERVER_ERROR: 500,
    SnapshotFault.REDIRECT: 302,
}
"""Faults that are told instead of a picture, and end a stream."""


class SnapshotServer:
    """``GET /<camera_id>`` and ``.png`` give the film's moment now, ``GET /<camera_id>.mjpeg`` a stream of them.

    Use as an async context manager. A film starts with its first client and runs on; it is decoded in one thread, only
    as far as somebody asks, and each picture is encoded once. Connections are kept alive; If-None-Match is heeded.

    Args:
        cameras: What each shows, by its id: a film, the `Screen` of another server's camera, or a JPEG or PNG picture.
        host: Address to listen on.
        port: 0 for any free one.

    Raises:
        ConfigurationError: A picture cannot be read.
    """

    def __init__(
        self, cameras: Mapping[str, Clip | Screen | bytes] | None = None, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.port = port
        self._host = host
        self._cameras = {camera_id: SnapshotCamera(shown) for camera_id, shown in (cameras or {}).items()}
        application = web.Application()
        application.add_routes([web.get("/{name}", self._get)])
        self._runner = web.AppRunner(
            application, access_log=None, shutdown_timeout=_SHUTDOWN_S, handler_cancellation=True
        )

    async def __aenter__(self) -> Self:
        self._decoder = ThreadPoolExecutor(1, "snapshots")
        self.port = await start_listening(
            self._runner,
            self._host,
            self.port,
            what="The snapshot server cannot listen",
            mend="Name a free port with --snapshot-port, or none: then one is found.",
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        for camera in self._cameras.values():
            self._decoder.submit(camera.close)
        self._decoder.shutdown()

    @property
    def urls(self) -> dict[str, str]:
        """Address of each camera's JPEG by its id, without user and password."""
        return {camera_id: self._url(camera_id) for camera_id in self._cameras}

    def add_camera(self, camera_id: str, shown: Clip | Screen | bytes) -> str:
        """Put up one camera more, and return its address.

        Raises:
            ValueError: There is one of this name.
            ConfigurationError: The picture cannot be read.
        """
        if camera_id in self._cameras:
            raise ValueError(f"there is a camera {camera_id} already")
        self._cameras[camera_id] = SnapshotCamera(shown)
        return self._url(camera_id)

    def sent(self, camera_id: str) -> tuple[SentPicture, ...]:
        """Return a camera's newest pictures in the order of sending, to all its clients: the last 6000."""
        return self._cameras[camera_id].sent

    def connected(self, camera_id: str) -> int:
        """How many connections that asked for this camera are open."""
        return self._cameras[camera_id].connected

    def connections_made(self, camera_id: str) -> int:
        """How many connections have ever asked for this camera."""
        return self._cameras[camera_id].connections_made

    def set_fault(self, camera_id: str, fault: SnapshotFault | None, *, redirect_to: str = "") -> None:
        """Make a camera misbehave from now on, or behave again with None; ``redirect_to`` is for REDIRECT."""
        camera = self._cameras[camera_id]
        camera.fault, camera.redirect_to = fault, redirect_to
        if fault is SnapshotFault.REFUSE:
            camera.reset_connections()

    def set_credentials(self, camera_id: str, user: str, password: str, *, scheme: Scheme = "digest") -> None:
        """Let a camera ask every request for these."""
        self._cameras[camera_id].credentials = Credentials(user, password, scheme)

    def _url(self, camera_id: str) -> str:
        return f"http://{self._host}:{self.port}/{quote(camera_id, safe='')}"

    async def _get(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        camera_id, _, ending = (name, "", "") if name in self._cameras else name.rpartition(".")
        camera = self._cameras.get(camera_id)
        if camera is None or ending not in {"", "png", "mjpeg"} or request.transport is None:
            return web.Response(status=404)
        camera.note_request(request.transport)
        if (refusal := await self._refusal(request, camera, request.transport)) is not None:
            return refusal
        with suppress(ConnectionResetError):  # the client has left
            if ending == "mjpeg":
                return await self._stream(request, camera)
            return await self._picture(request, camera, "png" if ending == "png" else "jpeg")
        return web.Response()

    async def _refusal(
        self, request: web.Request, camera: SnapshotCamera, transport: asyncio.Transport
    ) -> web.Response | None:
        """Return what is answered instead of a picture."""
        match camera.fault:
            case SnapshotFault.REFUSE:
                reset(transport)
                return web.Response()
            case SnapshotFault.HANG:
                await asyncio.Event().wait()  # until the client has gone
            case SnapshotFault.REDIRECT:
                return web.Response(status=302, headers={"Location": camera.redirect_to})
            case SnapshotFault.UNAUTHORIZED:
                return web.Response(status=401, headers=(camera.credentials or _NOBODY).challenge)
            case SnapshotFault.NOT_FOUND | SnapshotFault.SERVER_ERROR as fault:
                return web.Response(status=_STATUS[fault])
        given = request.headers.get("Authorization", "")
        if camera.credentials and not camera.credentials.accepts(request.method, request.raw_path, given):
            return web.Response(status=401, headers=camera.credentials.challenge)
        return None

    async def _picture(self, request: web.Request, camera: SnapshotCamera, kind: ImageKind) -> web.StreamResponse:
        still, film_s, _ = await self._newest(camera, kind)
        headers = {"Content-Type": f"image/{kind}", "ETag": still.etag, "Cache-Control": "no-cache"}
        if camera.fault is None and request.headers.get("If-None-Match") == still.etag:
            return web.Response(status=304, headers=headers)
        response = web.StreamResponse(headers=headers)
        data = _as_wanted(still.data, camera.fault)
        if camera.fault is not SnapshotFault.ENDLESS:
            response.content_length = len(data)
        await response.prepare(request)
        await _write(response, data, camera)
        await response.write_eof()
        camera.note_sent(film_s)
        return response

    async def _stream(self, request: web.Request, camera: SnapshotCamera) -> web.StreamResponse:
        """Send each picture when it is to be seen, or the newest one to a slow client."""
        response = web.StreamResponse(headers={"Content-Type": _STREAM_TYPE, "Cache-Control": "no-cache"})
        await response.prepare(request)
        while camera.fault not in _STATUS:
            if camera.fault is SnapshotFault.HANG:
                await asyncio.sleep(_SILENT_CHECK_S)
                continue
            still, film_s, until_s = await self._newest(camera, "jpeg")
            data = _as_wanted(still.data, camera.fault)
            head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            await _write(response, head.encode() + data + b"\r\n", camera)
            camera.note_sent(film_s)
            await asyncio.sleep(max(0.0, until_s - asyncio.get_running_loop().time()))
        return response

    async def _newest(self, camera: SnapshotCamera, kind: ImageKind) -> tuple[Still, float, float]:
        """Return the picture of now, its second of the film, and until when it is the newest, by the loop's clock."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        clip, (clip_s, film_s, rest_s) = camera.clip, camera.newest(now_s)
        still = await loop.run_in_executor(self._decoder, camera.still_at, clip, clip_s, kind)
        return still, film_s, now_s + rest_s


def _as_wanted(data: bytes, fault: SnapshotFault | None) -> bytes:
    match fault:
        case SnapshotFault.TRUNCATED:
            return data[: len(data) // 2]
        case SnapshotFault.HUGE_PICTURE:
            return claiming(data, _CLAIMED_WH)
        case _:
            return data


async def _write(response: web.StreamResponse, data: bytes, camera: SnapshotCamera) -> None:
    """Write a body at the camera's pace; raise ConnectionResetError where the client has left."""
    while camera.fault is SnapshotFault.DRIP and data:
        await response.write(data[:1])
        data = data[1:]
        await asyncio.sleep(DRIP_EVERY_S)
    await response.write(data)
    while camera.fault is SnapshotFault.ENDLESS:
        await response.write(_ENDLESS_CHUNK)
