"""``detector-worker simulate``: cameras that do not exist."""

import asyncio
from pathlib import Path
from typing import Annotated

import orjson
import typer

from detector_worker.cli.interrupt import until_interrupted
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import Fault, RtspServer

__all__ = ["simulate"]


def simulate(
    video: Annotated[
        Path, typer.Option(help="The clip that every camera shows, over and over.", exists=True, dir_okay=False)
    ],
    cameras: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 0,
    fault: Annotated[Fault | None, typer.Option(help="What every camera suffers from.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print nothing but the line of JSON.")] = False,
) -> None:
    """Serve a video file as RTSP cameras until Ctrl-C.

    Prints one line of JSON when the cameras are up: [{"camera_id": ..., "rtsp_url": ...}, ...].

    Example: detector-worker simulate --video gate.mp4 --cameras 4 --port 8554
    """
    asyncio.run(_simulate(video, cameras, port, fault, quiet=as_json))


async def _simulate(video: Path, cameras: int, port: int, fault: Fault | None, *, quiet: bool) -> None:
    clip = await asyncio.to_thread(Clip.load, video)
    async with RtspServer(clip, cameras=cameras, port=port) as server:
        for camera_id in server.urls:
            server.set_fault(camera_id, fault)
        typer.echo(orjson.dumps([{"camera_id": id_, "rtsp_url": url} for id_, url in server.urls.items()]))
        if not quiet:
            typer.echo(f"{cameras} camera(s) show {video.name}; Ctrl-C ends them.", err=True)
        await until_interrupted()
