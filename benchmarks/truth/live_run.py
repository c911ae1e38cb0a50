"""A scene live over RTSP: simulated cameras, the worker with its databases, and what is broken meanwhile."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Final, NoReturn

import psutil
from rich.console import Console

from benchmarks.truth.scenes import Breakage, Scene
from detector_worker.cli.demo.command import ARCHIVE, work_folder
from detector_worker.cli.demo.comparison import Comparison
from detector_worker.cli.demo.show import Demo, DemoPlan
from detector_worker.cli.films import film_cache, make_films
from detector_worker.core.exceptions import ServiceError
from detector_worker.simulator.faults import Fault
from detector_worker.simulator.film import Film

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
    # All films first: rendering would take the cores that the worker is judged on.
    async with aclosing(make_films(scene.orders(seed), cache=film_cache(), progress=_none)) as making:
        films = [film async for film in making]
    paths = {film.truth.camera_id: film.path for film in films}
    with work_folder(None) as folder:
        plan = DemoPlan(folder, ARCHIVE, tuple(paths), lambda _: _each_of(films), plays_once=True)
        comparison = await _play(plan, breakage, random.Random(f"{scene.name} {seed}"), say)
    return comparison, paths


async def _play(plan: DemoPlan, breakage: Breakage, rng: random.Random, say: _Say) -> Comparison:
    demo = Demo(plan, Console(stderr=True, quiet=True))
    breaking = asyncio.create_task(_BREAKERS[breakage](demo, rng, say))
    try:
        report = await demo.run()
    finally:
        breaking.cancel()
        await asyncio.gather(breaking, return_exceptions=True)
    if report is None:
        raise ServiceError("A scene was stopped", where="bench truth", mend="Start it again.")
    return report.comparison


async def _each_of(films: Sequence[Film]) -> AsyncGenerator[Film, None]:
    for film in films:
        yield film


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
        for whom, victim in (("a group", _a_group_of), ("the worker", _itself)):
            await asyncio.sleep(rng.uniform(*_BETWEEN_KILLS_S))
            while demo.board.worker.state != "running":  # noqa: ASYNC110 - the board has no event of its own for it
                await asyncio.sleep(_TICK_S)
            with suppress(psutil.Error):
                process = victim(psutil.Process(demo.board.worker.pid), rng)
                say(f"kill -9 of {whom}")
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
