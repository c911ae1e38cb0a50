"""The scenes at lane level: each film made and analysed in a process of the pool, a core each."""

import asyncio
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

from benchmarks.truth.film_run import FilmRun
from benchmarks.truth.scenes import Scene
from detector_worker.app import load_configuration
from detector_worker.cli.demo.command import ARCHIVE
from detector_worker.cli.demo.comparison import PlayedFilm, Record
from detector_worker.cli.films import film_cache
from detector_worker.simulator.film import FilmOrder, make_film
from detector_worker.utils.logging import setup_logging

__all__ = ["Outcome", "analyse_films"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One camera of one scene."""

    scene: str
    played: PlayedFilm
    records: tuple[Record, ...]
    film: Path
    analysed: int = 0
    """Frames; the others were passed over."""


def analyse_films(scenes: Sequence[Scene], seed: int) -> Iterator[Outcome]:
    """Yield the outcome of each film as soon as it is there; the longest are begun first.

    Raises:
        DetectorWorkerError: A film cannot be made or analysed.
    """
    work = [(scene, order) for scene in scenes for order in scene.orders(seed)]
    work.sort(key=lambda one: -one[1].longest_stop_s * one[0].vehicles_each)
    folder = Path(tempfile.mkdtemp(prefix="detector-worker-bench-"))
    try:
        processes, spawn = os.cpu_count() or 1, get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_end_with_parent) as pool:
            pending = [pool.submit(_analyse, scene, order, folder) for scene, order in work]
            try:
                yield from (future.result() for future in as_completed(pending))
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end_with_parent() -> None:
    """Whatever ends the benchmark ends its processes too."""
    threading.Thread(target=_wait_for_parents_end, daemon=True).start()


def _wait_for_parents_end() -> None:
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _analyse(scene: Scene, order: FilmOrder, folder: Path) -> Outcome:
    film = make_film(order, cache=film_cache())
    setup_logging("WARNING")
    run = FilmRun(film, ARCHIVE, load_configuration(overrides={"server": {"data_dir": str(folder)}}))
    asyncio.run(run.run(scene.watched))
    return Outcome(scene.name, run.played, tuple(run.records), film.path, run.analysed)
