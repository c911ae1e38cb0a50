"""A scene live over RTSP: simulated cameras, the worker with its databases, and what is broken meanwhile."""

import asyncio
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Final, NoReturn

import psutil
from rich.console import Console

from benchmarks.truth.scenes import Breakage, Scene
from detector_worker.cli.demo.command import ARCHIVE
from detector_worker.cli.demo.comparison import Comparison
from detector_worker.cli.demo.show import Demo, DemoPlan
from detector_worker.cli.films import film_cache, make_films
from detector_worker.core.exceptions import ServiceError
from detector_worker.simulator.faults import Fault

__all__ = ["LiveResult", "run_live"]

_OUTAGES: Final = (Fault.REFUSE, Fault.HANG_PLAY, Fault.RESET, Fault.END)
_OUTAGE_S: Final = (3.0, 9.0)
_QUIET_S: Final = (6.0, 14.0)
_BETWEEN_KILLS_S: Final = (18.0, 30.0)
_TICK_S: Final = 0.2

_Say = Callable[[str], None]
LiveResult = tuple[Comparison, dict[str, Path]]
"""How the records fit, and each camera's film."""


async def run_live(scene: Scene, breakage: Breakage, seed: int, *, say: _Say) -> LiveResult:
    """Play the films of a scene once, break what is to be broken, and compare.

    Raises:
        DetectorWorkerError: Something that the worker needs does not work.
    """
    orders = scene.orders(seed)
    async with aclosing(make_films(orders, cache=film_cache(), progress=_none)) as films:
        paths = {film.truth.camera_id: film.path async for film in films}
    folder = await asyncio.to_thread(_open_folder)
    plan = DemoPlan(
        folder=folder,
        archive=ARCHIVE,
        camera_ids=tuple(paths),
        films=lambda progress: make_films(orders, cache=film_cache(), progress=progress),
        plays_once=True,
    )
    demo, breaker = Demo(plan, Console(stderr=True, quiet=True)), _BREAKERS[breakage]
    breaking = asyncio.create_task(breaker(demo, random.Random(f"{scene.name} {seed}"), say))
    try:
        report = await demo.run()
    finally:
        breaking.cancel()
        await asyncio.gather(breaking, return_exceptions=True)
        shutil.rmtree(folder, ignore_errors=True)
    if report is None:
        raise ServiceError(f"The scene {scene.name!r} was stopped", where="bench truth", mend="Start it again.")
    return report.comparison, paths


def _open_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="detector-worker-bench-"))
    folder.chmod(0o711)  # as root, the servers run as another account and must find their way
    return folder


async def _outages(demo: Demo, rng: random.Random, say: _Say) -> NoReturn:
    """Take one camera away after the other, each in one of the ways in which cameras go."""
    while True:
        await asyncio.sleep(rng.uniform(*_QUIET_S) / 2)
        playing = [camera for camera, view in demo.board.cameras.items() if view.state == "active"]
        if not playing:
            continue
        camera_id, fault, lasts_s = rng.choice(playing), rng.choice(_OUTAGES), rng.uniform(*_OUTAGE_S)
        say(f"{camera_id}: {fault} for {lasts_s:.0f} s")
        demo.cameras.set_fault(camera_id, fault)
        await asyncio.sleep(lasts_s)
        if demo.board.cameras[camera_id].state != "played":
            demo.cameras.set_fault(camera_id, None)


async def _restarts(demo: Demo, rng: random.Random, say: _Say) -> NoReturn:
    """Kill a group, then the worker, and so on."""
    while True:
        for victim in (_a_group_of, _itself):
            await asyncio.sleep(rng.uniform(*_BETWEEN_KILLS_S))
            while demo.board.worker.state != "running":  # noqa: ASYNC110 - the board has no event of its own for it
                await asyncio.sleep(_TICK_S)
            with suppress(psutil.Error):
                process = victim(psutil.Process(demo.board.worker.pid), rng)
                say(f"kill -9 of {'the worker' if victim is _itself else 'a group'}")
                os.kill(process.pid, signal.SIGKILL)


def _a_group_of(worker: psutil.Process, rng: random.Random) -> psutil.Process:
    groups = [one for one in worker.children() if any("spawn_main" in part for part in one.cmdline())]
    return rng.choice(groups) if groups else worker


def _itself(worker: psutil.Process, _: random.Random) -> psutil.Process:
    return worker


def _none(*_: object) -> None:
    """The films are a matter of seconds, told as one."""


_BREAKERS: Final[
    dict[Breakage, Callable[[Demo, random.Random, Callable[[str], None]], Coroutine[Any, Any, NoReturn]]]
] = {
    "outages": _outages,
    "restarts": _restarts,
}
