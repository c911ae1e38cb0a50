"""``detector-worker simulate``: cameras that do not exist."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer

from detector_worker.cli.films import film_cache, make_films, show_progress
from detector_worker.cli.interrupt import until_interrupted
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.faults import Fault, SnapshotFault
from detector_worker.simulator.film import FilmOrder
from detector_worker.simulator.rtsp_server import RtspServer
from detector_worker.simulator.scenes.kinds import SceneKind
from detector_worker.simulator.snapshot_server import SnapshotServer
from detector_worker.simulator.truth_server import TruthServer

__all__ = ["simulate"]

_VEHICLES: Final = 12


@dataclass(frozen=True, slots=True)
class _Wish:
    """How cameras are served, whatever they show."""

    port: int
    snapshot_port: int | None
    """None: over RTSP alone."""
    fault: Fault | None
    snapshot_fault: SnapshotFault | None
    is_quiet: bool


def simulate(
    *,
    video: Annotated[
        Path | None, typer.Option(help="A clip that every camera shows, over and over.", exists=True, dir_okay=False)
    ] = None,
    cameras: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 1,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same scenes; default 1.")] = None,
    vehicles: Annotated[
        int | None, typer.Option(min=1, help=f"How many each camera sees; default {_VEHICLES}.")
    ] = None,
    scene: Annotated[
        SceneKind | None, typer.Option(help="What makes the scenes difficult; default mix, some of everything.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of RTSP; 0: any free port.")] = 0,
    snapshots: Annotated[bool, typer.Option("--snapshots", help="Serve the cameras over HTTP too.")] = False,
    snapshot_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Where, with --snapshots; 0: any free port.")
    ] = None,
    truth_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Where the truth is told; 0: any.")] = None,
    fault: Annotated[Fault | None, typer.Option(help="What every camera suffers from over RTSP.")] = None,
    snapshot_fault: Annotated[
        SnapshotFault | None, typer.Option(help="With --snapshots: what every camera suffers from over HTTP.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print nothing but the line of JSON.")] = False,
) -> None:
    """Serve scenes of a gate, or a video file, as cameras until Ctrl-C.

    Scenes are rendered once and kept in ~/.cache/detector-worker/films. H.264, H.265 and Motion JPEG files are sent as
    such. Prints one line of JSON when the cameras are up: [{"camera_id": ..., "rtsp_url": ..., "truth_url": ...}, ...].
    With scenes, GET on the truth_url tells which vehicles are in the film and which moment of it was sent when. With
    --snapshots there is a snapshot_url, too: GET gives a JPEG; with .png or .mjpeg behind it a PNG or a stream.

    Example: detector-worker simulate --cameras 4 --seed 7 --port 8554 --truth-port 8555

    Example: detector-worker simulate --scene crowded --vehicles 20

    Example: detector-worker simulate --video gate.mp4 --snapshots --snapshot-port 8556

    Example: detector-worker simulate --video gate.mp4 --port 8554 --fault hang-play
    """
    if not snapshots and (snapshot_port, snapshot_fault) != (None, None):
        raise typer.BadParameter("--snapshot-port and --snapshot-fault need --snapshots.")
    if snapshot_fault is SnapshotFault.REDIRECT:
        raise typer.BadParameter("redirect needs an address to lead to: it is for tests alone.")
    wish = _Wish(port, (snapshot_port or 0) if snapshots else None, fault, snapshot_fault, as_json)
    if video is None:
        wanted = range(1, cameras + 1)
        seed, vehicles = 1 if seed is None else seed, vehicles or _VEHICLES
        orders = [FilmOrder(seed, camera, vehicles, scene=scene or "mix") for camera in wanted]
        asyncio.run(_simulate_scenes(orders, truth_port or 0, wish))
        return
    if (seed, vehicles, scene, truth_port) != (None, None, None, None):
        raise typer.BadParameter(
            "--video shows a file, but --seed, --vehicles, --scene and --truth-port are for scenes: "
            "leave one or the other out."
        )
    asyncio.run(_simulate_video(video, cameras, wish))


class _Cameras:
    """The servers of one command, and the cameras as they are told."""

    def __init__(self, wish: _Wish, rtsp: RtspServer, snapshots: SnapshotServer | None) -> None:
        self._wish, self._rtsp, self._snapshots = wish, rtsp, snapshots
        self.sent = rtsp.sent

    def put_up(self, camera_id: str, clip: Clip) -> dict[str, str]:
        """Put up a camera and return its addresses; over RTSP and HTTP the same moment is shown."""
        addresses = {"camera_id": camera_id, "rtsp_url": self._rtsp.add_camera(camera_id, clip)}
        self._rtsp.set_fault(camera_id, self._wish.fault)
        if self._snapshots is not None:
            addresses["snapshot_url"] = self._snapshots.add_camera(camera_id, self._rtsp.screen(camera_id))
            self._snapshots.set_fault(camera_id, self._wish.snapshot_fault)
        return addresses


@asynccontextmanager
async def _serving(wish: _Wish) -> AsyncIterator[_Cameras]:
    async with AsyncExitStack() as stack:
        rtsp = await stack.enter_async_context(RtspServer(port=wish.port))
        snapshots = None
        if wish.snapshot_port is not None:
            snapshots = await stack.enter_async_context(SnapshotServer(port=wish.snapshot_port))
        yield _Cameras(wish, rtsp, snapshots)


async def _simulate_video(video: Path, cameras: int, wish: _Wish) -> None:
    clip = await asyncio.to_thread(Clip.load, video)
    async with _serving(wish) as served:
        addresses = [served.put_up(f"cam-{number}", clip) for number in range(1, cameras + 1)]
        _tell(addresses, video.name, is_quiet=wish.is_quiet)
        await until_interrupted()


async def _simulate_scenes(orders: Sequence[FilmOrder], truth_port: int, wish: _Wish) -> None:
    async with _serving(wish) as served, TruthServer(sent=served.sent, port=truth_port) as truths:
        addresses: dict[str, dict[str, str]] = {}
        with show_progress(orders, quiet=wish.is_quiet) as progress:
            async with aclosing(make_films(orders, cache=film_cache(), progress=progress)) as films:
                async for film in films:
                    camera_id = film.truth.camera_id
                    put_up = served.put_up(camera_id, await asyncio.to_thread(Clip.load, film.path))
                    addresses[camera_id] = put_up | {"truth_url": truths.add(film.truth)}
        in_order = [addresses[f"cam-{order.camera}"] for order in orders]
        _tell(in_order, f"scenes of seed {orders[0].seed}", is_quiet=wish.is_quiet)
        await until_interrupted()


def _tell(cameras: Sequence[Mapping[str, str]], shown: str, *, is_quiet: bool) -> None:
    typer.echo(orjson.dumps(cameras))
    if not is_quiet:
        typer.echo(f"{len(cameras)} camera(s) show {shown}; Ctrl-C ends them.", err=True)
