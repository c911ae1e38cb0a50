"""``detector-worker bench``: the benchmarks, which lie beside the package in its repository."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Final

import orjson
import typer

import detector_worker
from detector_worker.core.exceptions import ConfigurationError

__all__ = ["bench"]

_ROOT: Final = Path(detector_worker.__file__).parents[1]

bench = typer.Typer(
    name="bench",
    help="Measure how well the worker does what it is for.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@bench.callback()
def _bench() -> None:
    """Measure how well the worker does what it is for."""


@bench.command()
def tracking(
    *,
    mot: Annotated[Path, typer.Option(help="A folder of sequences: SEQ/gt.txt, det.txt and seqinfo.ini.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Follow the objects of MOTChallenge sequences, next to SORT, ByteTrack and OC-SORT of the `trackers` package.

    Example: detector-worker bench tracking --mot MOT15/train
    """
    report = _benchmark("tracking.report")
    found = report.measure(mot)
    typer.echo(orjson.dumps(found) if as_json else report.as_text(found))


@bench.command()
def truth(
    *,
    seed: Annotated[int, typer.Option(min=0, help="Another seed: other cameras, vehicles and breakages.")] = 1,
    scene: Annotated[list[str] | None, typer.Option(help="Only this one; may be given several times.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write the errors, with pictures, into this Markdown file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Count records against simulated scenes in which everything that happens is known.

    Over 400 vehicles: the standard mix, a crowded gate, cars parked all day, occlusion, night, rain and a shaking mast,
    from files and faster than real time; then camera outages and kill -9 live, with servers of its own. The films are
    kept: the first run of a seed makes them. Exit 0 if at most two vehicles in all are missed or recorded twice, and no
    plate went to another vehicle.

    Example: detector-worker bench truth --seed 7 --scene "crowded gate" --scene outages
    """
    if not _benchmark("truth.command").run_truth(seed=seed, names=scene or (), as_json=as_json, page=page):
        raise typer.Exit(1)


@bench.command()
def storage(
    *,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="The median of so many is told.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Measure spool and drainers, next to the plainest ways to write the same rows and pictures.

    With a PostgreSQL and a Redis of its own: entries accepted per second, rows drained against one plain executemany,
    pictures against pipelined SETs, and how long acceptance takes while a backlog of 100,000 rows is delivered. Takes
    about half a minute a round. Exit 0 if all ratios are within their bounds.

    Example: detector-worker bench storage --rounds 5 --json
    """
    report = _benchmark("storage.report")
    found = report.measure(rounds=rounds, tell=lambda text: typer.echo(text, err=True))
    typer.echo(orjson.dumps(found) if as_json else report.as_text(found))
    if not found["good"]:
        raise typer.Exit(1)


def _benchmark(name: str) -> ModuleType:
    """Import a module of the folder `benchmarks`.

    Raises:
        ConfigurationError: This is an installed wheel, without that folder, or packages for development are missing.
    """
    if not (_ROOT / "benchmarks").is_dir():
        raise ConfigurationError(
            "The benchmarks are no part of the installed package",
            where=str(_ROOT),
            mend="Get the repository, run `make install-dev` in it, and start this command from its .venv.",
        )
    if str(_ROOT) not in sys.path:
        sys.path.insert(0, str(_ROOT))
    try:
        return import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"The package {exc.name} is missing",
            where=f"benchmarks.{name}",
            mend="Run `make install-dev`, which installs what only development needs.",
        ) from exc
