"""``detector-worker bench truth``: every scene, counted against what really happened."""

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.truth.films import Outcome, analyse_films
from benchmarks.truth.live_run import run_live
from benchmarks.truth.page import write_page
from benchmarks.truth.scenes import SCENES, Scene
from detector_worker.cli.demo.comparison import Comparison, PlayedFilm, Record, compare
from detector_worker.core.exceptions import ConfigurationError

__all__ = ["SceneResult", "run_truth"]

_COUNTS: Final = ("vehicles", "records", "missed", "duplicates", "wrong_plate_to_car")
_MOST_ERRORS: Final = 2
"""Missed and doubled together."""


@dataclass(slots=True)
class SceneResult:
    """One scene's count, and where its films are."""

    name: str
    comparison: Comparison
    films: dict[str, Path] = field(default_factory=dict)
    """By camera id."""

    def figures(self) -> dict[str, Any]:
        """Return what is printed of it."""
        return {"name": self.name} | figures_of([self.comparison])


def figures_of(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Add up scenes."""
    total = {name: sum(getattr(one, name) for one in comparisons) for name in _COUNTS}
    recorded = total["vehicles"] - total["missed"]
    accuracies = {
        f"{kind}_accuracy": _share(sum(getattr(one, f"{kind}_correct") for one in comparisons), of)
        for kind, of in (
            ("brand", recorded),
            ("body", recorded),
            ("plate", sum(one.plate_readable for one in comparisons)),
        )
    }
    return total | accuracies


def run_truth(*, seed: int, names: Sequence[str], as_json: bool, page: Path | None) -> bool:
    """Run scenes and print their figures; returns whether the whole is good.

    Args:
        seed: Other films, other breakages.
        names: Of the scenes; none: all.
        as_json: Print one JSON object, and nothing else to standard output.
        page: Where to write each error with its picture, as Markdown; the pictures go into a folder beside it.

    Raises:
        DetectorWorkerError: A scene has no such name, or cannot be run.
    """
    scenes = _scenes_of(names)
    results = _run(scenes, seed)
    total = figures_of([one.comparison for one in results])
    if page is not None:
        write_page(page, {one.name: (one.comparison, one.films) for one in results}, seed=seed)
    if as_json:
        typer.echo(orjson.dumps({"scenes": [one.figures() for one in results], "total": total}))
    else:
        _print(results, total)
    return bool(total["missed"] + total["duplicates"] <= _MOST_ERRORS and not total["wrong_plate_to_car"])


def _scenes_of(names: Sequence[str]) -> list[Scene]:
    by_name = {scene.name: scene for scene in SCENES}
    if unknown := [name for name in names if name not in by_name]:
        known = ", ".join(repr(name) for name in by_name)
        raise ConfigurationError(f"There is no scene {unknown[0]!r}", where="--scene", mend=f"Name one of {known}.")
    return [scene for scene in SCENES if not names or scene.name in names]


def _run(scenes: Sequence[Scene], seed: int) -> list[SceneResult]:
    on_film = [scene for scene in scenes if scene.breaks is None]
    live = [(scene, scene.breaks) for scene in scenes if scene.breaks is not None]
    results: dict[str, SceneResult] = {}
    with _progress(sum(one.cameras for one in on_film) + len(live)) as (advance, say):
        outcomes: dict[str, list[Outcome]] = {}
        for outcome in analyse_films(on_film, seed):
            outcomes.setdefault(outcome.scene, []).append(outcome)
            advance(f"{outcome.scene}, {outcome.played.truth.camera_id}")
        results |= {name: _result(name, films) for name, films in outcomes.items()}
        for scene, breakage in live:
            results[scene.name] = SceneResult(scene.name, *asyncio.run(run_live(scene, breakage, seed, say=say)))
            advance(scene.name)
    return [results[scene.name] for scene in scenes]


@contextmanager
def _progress(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """Show on standard error how far it is: a bar on a terminal, else a line for each film.

    Yields what to call when one is finished, and what says anything else.
    """
    if not sys.stderr.isatty():
        done = count(1)
        yield lambda name: typer.echo(f"{next(done)} of {total}: {name}", err=True), partial(typer.echo, err=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("Films", total=total)
        yield lambda name: progress.update(task, advance=1, description=name), progress.console.print


def _result(name: str, outcomes: Sequence[Outcome]) -> SceneResult:
    played: list[PlayedFilm] = [outcome.played for outcome in outcomes]
    records: list[Record] = [record for outcome in outcomes for record in outcome.records]
    return SceneResult(name, compare(played, records), {one.played.truth.camera_id: one.film for one in outcomes})


def _share(part: int, of: int) -> float | None:
    return round(part / of, 4) if of else None


def _print(results: Sequence[SceneResult], total: dict[str, Any]) -> None:
    headings = ("scene", "vehicles", "records", "missed", "double", "other's plate", "brand", "body", "plate")
    table = Table(*headings, title="One record per real vehicle")
    for figures in (*(one.figures() for one in results), {"name": "total"} | total):
        table.add_row(*("" if value is None else str(value) for value in figures.values()))
    Console(width=100).print(table)
    for one in results:
        for text in one.comparison.explanations:
            typer.echo(f"- {one.name}: {text}")
