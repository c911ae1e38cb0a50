"""Simulated cameras in a process of their own: their work is not ours, and they can be killed."""

import asyncio
import multiprocessing
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Self

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.faults import Fault, SnapshotFault
from detector_worker.simulator.rtsp_server import RtspServer
from detector_worker.simulator.snapshot_server import SnapshotServer

__all__ = ["CameraProcess"]

_START_TIMEOUT_S: Final = 20.0
_STOP_TIMEOUT_S: Final = 5.0
_Films = Mapping[str, Path]
_Login = tuple[str, str]


class CameraProcess:
    """One RTSP and one snapshot server. Use as an async context manager, on one event loop.

    Args:
        rtsp: The film of each RTSP camera, by its id.
        snapshots: The film of each camera that gives pictures over HTTP, by its id; other ids than those of ``rtsp``.
        login: User and password, which every camera asks for as digest; None: they take everybody.
    """

    def __init__(self, rtsp: _Films, *, snapshots: _Films | None = None, login: _Login | None = None) -> None:
        self._rtsp, self._snapshots, self._login = dict(rtsp), dict(snapshots or {}), login
        self._ports = (0, 0)
        self._asking = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._pipe.close()
            await asyncio.to_thread(self._process.join, _STOP_TIMEOUT_S)
        await self.kill()
        self._process.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    async def start(self) -> None:
        """Start the process, after a `kill` at the same ports; returns once the cameras can be connected to."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        args = (self._rtsp, self._snapshots, self._login, self._ports, theirs)
        self._process = context.Process(target=_run, args=args, name="cameras", daemon=True)
        await asyncio.to_thread(self._process.start)
        theirs.close()
        assert await asyncio.to_thread(self._pipe.poll, _START_TIMEOUT_S), "the cameras did not start"
        self._ports = self._pipe.recv()

    async def kill(self) -> None:
        """Kill the process with all cameras, as if the power went."""
        self._process.kill()
        await asyncio.to_thread(self._process.join)
        self._pipe.close()

    def url(self, camera_id: str) -> str:
        """Return a camera's address, with user and password where it asks for them."""
        login = "" if self._login is None else f"{self._login[0]}:{self._login[1]}@"
        if camera_id in self._rtsp:
            return f"rtsp://{login}127.0.0.1:{self._ports[0]}/{camera_id}"
        return f"http://{login}127.0.0.1:{self._ports[1]}/{camera_id}"

    async def set_fault(self, camera_id: str, fault: Fault | SnapshotFault | None) -> None:
        """As the servers' ``set_fault``."""
        await self._ask(camera_id, "set_fault", camera_id, fault)

    async def switch_clip(self, camera_id: str, film: Path) -> None:
        """As `RtspServer.switch_clip`."""
        await self._ask(camera_id, "switch_clip", camera_id, film)

    async def connected(self, camera_id: str) -> int:
        """As the servers' ``connected``."""
        count: int = await self._ask(camera_id, "connected", camera_id)
        return count

    async def _ask(self, camera_id: str, method: str, *args: object) -> Any:
        async with self._asking:
            self._pipe.send((camera_id in self._rtsp, method, args))
            error, answer = await asyncio.to_thread(self._pipe.recv)
        assert error is None, error
        return answer


def _run(rtsp: _Films, snapshots: _Films, login: _Login | None, ports: tuple[int, int], pipe: Connection) -> None:
    asyncio.run(_serve(rtsp, snapshots, login, ports, pipe))


async def _serve(
    rtsp: _Films, snapshots: _Films, login: _Login | None, ports: tuple[int, int], pipe: Connection
) -> None:
    clips = {path: Clip.load(path) for path in {*rtsp.values(), *snapshots.values()}}
    rtsp_clips = {camera_id: clips[path] for camera_id, path in rtsp.items()}
    snapshot_clips = {camera_id: clips[path] for camera_id, path in snapshots.items()}
    gone = asyncio.Event()
    async with (
        RtspServer(rtsp_clips, port=ports[0]) as rtsp_server,
        SnapshotServer(snapshot_clips, port=ports[1]) as snapshot_server,
    ):

        def answer() -> None:
            try:
                is_rtsp, method, args = pipe.recv()
            except EOFError:
                asyncio.get_running_loop().remove_reader(pipe.fileno())
                gone.set()
                return
            server = rtsp_server if is_rtsp else snapshot_server
            try:
                loaded = [Clip.load(one) if isinstance(one, Path) else one for one in args]
                pipe.send((None, getattr(server, method)(*loaded)))
            except Exception as exc:  # noqa: BLE001 - who asked shall see it
                pipe.send((repr(exc), None))

        if login is not None:
            for camera_id in rtsp:
                rtsp_server.set_credentials(camera_id, *login)
            for camera_id in snapshots:
                snapshot_server.set_credentials(camera_id, *login)
        pipe.send((rtsp_server.port, snapshot_server.port))
        asyncio.get_running_loop().add_reader(pipe.fileno(), answer)
        await gone.wait()
