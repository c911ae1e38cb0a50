"""``detector-worker simulate``: cameras that do not exist."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Final

import orjson
import typer

from detector_worker.cli.films import film_cache, make_films, show_progress
from detector_worker.cli.interrupt import until_interrupted
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.film import FilmOrder
from detector_worker.simulator.rtsp_server import Fault, RtspServer, same_film
from detector_worker.simulator.truth_server import TruthServer

__all__ = ["simulate"]

_VEHICLES: Final = 12


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
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 0,
    truth_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Where the truth is told; 0: any.")] = None,
    fault: Annotated[Fault | None, typer.Option(help="What every camera suffers from.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print nothing but the line of JSON.")] = False,
) -> None:
    """Serve scenes of a gate, or a video file, as RTSP cameras until Ctrl-C.

    Scenes are rendered once and kept in ~/.cache/detector-worker/films. Prints one line of JSON when the cameras
    are up: [{"camera_id": ..., "rtsp_url": ..., "truth_url": ...}, ...]. With scenes, GET on the truth_url tells
    which vehicles are in the film and which moment of it was sent when.

    Example: detector-worker simulate --cameras 4 --seed 7 --port 8554 --truth-port 8555

    Example: detector-worker simulate --video gate.mp4 --cameras 4 --port 8554
    """
    if video is None:
        wanted = range(1, cameras + 1)
        orders = [FilmOrder(1 if seed is None else seed, camera, vehicles or _VEHICLES) for camera in wanted]
        asyncio.run(_simulate_scenes(orders, port, truth_port or 0, fault, quiet=as_json))
        return
    if (seed, vehicles, truth_port) != (None, None, None):
        raise typer.BadParameter(
            "--video shows a file, but --seed, --vehicles and --truth-port are for scenes: leave one or the other out."
        )
    asyncio.run(_simulate_video(video, cameras, port, fault, quiet=as_json))


async def _simulate_video(video: Path, cameras: int, port: int, fault: Fault | None, *, quiet: bool) -> None:
    clip = await asyncio.to_thread(Clip.load, video)
    async with RtspServer(same_film(clip, cameras), port=port) as server:
        for camera_id in server.urls:
            server.set_fault(camera_id, fault)
        _tell([{"camera_id": id_, "rtsp_url": url} for id_, url in server.urls.items()], video.name, quiet=quiet)
        await until_interrupted()


async def _simulate_scenes(
    orders: Sequence[FilmOrder], port: int, truth_port: int, fault: Fault | None, *, quiet: bool
) -> None:
    async with RtspServer(port=port) as server, TruthServer(sent=server.sent, port=truth_port) as truths:
        with show_progress(orders, quiet=quiet) as progress:
            async with aclosing(make_films(orders, cache=film_cache(), progress=progress)) as films:
                async for film in films:
                    camera_id = film.truth.camera_id
                    server.add_camera(camera_id, await asyncio.to_thread(Clip.load, film.path))
                    server.set_fault(camera_id, fault)
                    truths.add(film.truth)
        addresses = [
            {"camera_id": camera_id, "rtsp_url": server.urls[camera_id], "truth_url": truths.urls[camera_id]}
            for camera_id in (f"cam-{order.camera}" for order in orders)
        ]
        _tell(addresses, f"scenes of seed {orders[0].seed}", quiet=quiet)
        await until_interrupted()


def _tell(cameras: Sequence[Mapping[str, str]], shown: str, *, quiet: bool) -> None:
    typer.echo(orjson.dumps(cameras))
    if not quiet:
        typer.echo(f"{len(cameras)} camera(s) show {shown}; Ctrl-C ends them.", err=True)
