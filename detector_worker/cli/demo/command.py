"""``detector-worker demo``: everything at once, on this machine alone."""

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from detector_worker import simulator
from detector_worker.cli.demo.report import Report
from detector_worker.cli.demo.show import Demo, DemoPlan
from detector_worker.cli.demo.terminal import say
from detector_worker.cli.films import film_cache, make_films
from detector_worker.core.exceptions import ConfigurationError
from detector_worker.simulator.film import FilmOrder

__all__ = ["ARCHIVE", "demo", "film_orders", "run_until_interrupted", "snapshot_cameras", "work_folder"]

ARCHIVE: Final = Path(simulator.__file__).with_name("demo.mpta")
_VEHICLES_EACH: Final = 6
_REMOVE_TRIES: Final = 20


def demo(
    *,
    vehicles: Annotated[int | None, typer.Option(min=1, max=10_000, help="End after so many, and compare.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other vehicles.")] = 1,
    cameras: Annotated[int, typer.Option(min=1, max=64, help="How many.")] = 4,
    shortest_stop: Annotated[
        float | None, typer.Option(min=0.5, max=3600, help="How long a vehicle stands at least, seconds.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --vehicles: print one JSON object.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Keep everything there; must be empty or absent.")] = None,
    page_port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 0,
) -> None:
    """Show the worker at work: simulated cameras, embedded servers, a client, and a page to look at.

    The last of several cameras is asked for single pictures over HTTP, the others are watched over RTSP.
    Without --vehicles until Ctrl-C. With it, the records are compared with what really happened: exit 0 if no vehicle
    was missed or recorded twice and no picture was lost.

    Example: detector-worker demo --vehicles 12 --seed 7 --json
    """
    if as_json and vehicles is None:
        raise typer.BadParameter("it needs --vehicles", param_hint="--json")
    orders = film_orders(vehicles, seed=seed, cameras=cameras, shortest_stop_s=shortest_stop)
    console = Console(stderr=True)
    with work_folder(data_dir) as folder:
        camera_ids = tuple(f"cam-{order.camera}" for order in orders)
        plan = DemoPlan(
            folder=folder,
            archive=ARCHIVE,
            camera_ids=camera_ids,
            snapshot_cameras=snapshot_cameras(camera_ids),
            films=lambda progress: make_films(orders, cache=film_cache(), progress=progress),
            plays_once=vehicles is not None,
            page_port=page_port,
        )
        report = asyncio.run(run_until_interrupted(plan, console))
    say(console, "Everything has ended.")
    if report is not None:
        _tell(report, console, as_json=as_json)
    if vehicles is not None and (report is None or report.failures):
        say(console, "Failed: " + (", ".join(report.failures) if report else "it was interrupted before the end"))
        raise typer.Exit(1)


async def run_until_interrupted(plan: DemoPlan, console: Console) -> Report | None:
    """Run a demo that SIGINT and SIGTERM end, a second one at once."""
    demo = Demo(plan, console)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, demo.stop)
    return await demo.run()


def film_orders(
    vehicles: int | None, *, seed: int, cameras: int, shortest_stop_s: float | None = None
) -> tuple[FilmOrder, ...]:
    """Spread vehicles over cameras; None: a few for each. A camera without any is none."""
    total = _VEHICLES_EACH * cameras if vehicles is None else vehicles
    shares = [total // cameras + (number < total % cameras) for number in range(cameras)]
    orders = [FilmOrder(seed, number, share) for number, share in enumerate(shares, start=1) if share]
    if shortest_stop_s is None:
        return tuple(orders)
    longest_s = max(shortest_stop_s, orders[0].longest_stop_s)
    return tuple(replace(order, shortest_stop_s=shortest_stop_s, longest_stop_s=longest_s) for order in orders)


def snapshot_cameras(camera_ids: Sequence[str]) -> frozenset[str]:
    """Choose who is asked for single pictures: the last of several, and none where there is only one."""
    return frozenset(camera_ids[1:][-1:])


def _tell(report: Report, console: Console, *, as_json: bool) -> None:
    if not as_json:
        report.print(Console())
        return
    typer.echo(report.to_json())
    for explanation in report.comparison.explanations:
        say(console, f"- {explanation}")


@contextmanager
def work_folder(data_dir: Path | None) -> Iterator[Path]:
    """Give a folder that every account may pass through, since PostgreSQL refuses root; a fresh one is removed."""
    if data_dir is not None:
        yield _empty_folder(data_dir.resolve())
        return
    folder = Path(tempfile.mkdtemp(prefix="detector-worker-demo-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        for _ in range(_REMOVE_TRIES):  # servers of a killed worker may still be writing
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)


def _empty_folder(folder: Path) -> Path:
    mend = "Choose an empty or a new one with --data-dir."
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o711)
        elif any(folder.iterdir()):
            raise ConfigurationError("The data folder is not empty", where=str(folder), mend=mend)
    except OSError as exc:
        raise ConfigurationError(
            f"The data folder cannot be used: {exc.strerror}", where=str(folder), mend=mend
        ) from exc
    return folder
