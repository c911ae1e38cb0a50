"""Films of scenes, made side by side in processes of their own."""

import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from detector_worker.core.config import user_cache_folder
from detector_worker.core.exceptions import ServiceError
from detector_worker.simulator.film import Film, FilmOrder, make_film

__all__ = ["FilmProgress", "film_cache", "make_films", "show_progress"]

FilmProgress = Callable[[FilmOrder, float], None]
"""Told the share of a film that is done, every now and then, and 1.0 once it is finished."""
_SPAWN: Final = multiprocessing.get_context("spawn")
_TELL_EVERY_S: Final = 0.2
_shares: Final[ContextVar["ctypes.Array[ctypes.c_double]"]] = ContextVar("shares")
"""In a renderer: what it tells its parent, by the order's number."""


def film_cache() -> Path:
    """Return the folder in which films are kept; it may not exist yet."""
    return user_cache_folder() / "detector-worker" / "films"


async def make_films(orders: Sequence[FilmOrder], *, cache: Path, progress: FilmProgress) -> AsyncGenerator[Film, None]:
    """Yield each film as soon as it is finished; the truth in it tells whose it is.

    Use with `contextlib.aclosing`: closing it ends the renderers at once. They end with this process too, whatever
    ends it.

    Raises:
        ConfigurationError: The cache folder cannot be written.
        ServiceError: A renderer has died.
    """
    shares = _SPAWN.RawArray(ctypes.c_double, len(orders))
    leash, held = _SPAWN.Pipe(duplex=False)
    processes, others = min(len(orders), os.cpu_count() or 1), set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, mp_context=_SPAWN, initializer=_be_renderer, initargs=(leash, shares))
    numbers: dict[asyncio.Future[Film], int] = {}
    try:
        with _interrupts_blocked():
            for number, order in enumerate(orders):
                numbers[asyncio.wrap_future(pool.submit(_render, number, order, cache))] = number
        pending = set(numbers)
        while pending:
            done, pending = await asyncio.wait(pending, timeout=_TELL_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            for future in pending:
                progress(orders[numbers[future]], shares[numbers[future]])
            for future in done:
                film = future.result()
                progress(orders[numbers[future]], 1.0)
                yield film
    except BrokenProcessPool as exc:
        what = "A process that renders films has died"
        raise ServiceError(what, where="films", mend="Start again; it may have been out of memory.") from exc
    finally:
        held.close()  # the renderers see it and are gone
        for renderer in set(multiprocessing.active_children()) - others:
            renderer.kill()  # those too that are still importing
        for future in numbers:
            if not future.cancel() and not future.cancelled():
                future.exception()  # nobody misses it
        await asyncio.shield(asyncio.to_thread(pool.shutdown, cancel_futures=True))
        leash.close()


@contextmanager
def show_progress(orders: Sequence[FilmOrder], *, quiet: bool) -> Iterator[FilmProgress]:
    """Show on standard error how far the films are: a bar on a terminal, else a line for each finished one."""
    if quiet:
        yield lambda order, share: None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[ready]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            yield _bar_of(bar, len(orders))
    else:
        yield _lines_of(len(orders))


def _bar_of(bar: Progress, films: int) -> FilmProgress:
    shares: dict[FilmOrder, float] = {}
    task = bar.add_task("Making films", total=films, ready="")

    def progress(order: FilmOrder, share: float) -> None:
        shares[order] = share
        ready = f"{sum(one >= 1 for one in shares.values())} of {films}"
        bar.update(task, completed=sum(shares.values()), ready=ready)

    return progress


def _lines_of(films: int) -> FilmProgress:
    ready: set[FilmOrder] = set()

    def progress(order: FilmOrder, share: float) -> None:
        if share >= 1 and order not in ready:
            ready.add(order)
            typer.echo(f"The film of cam-{order.camera} is ready ({len(ready)} of {films})", err=True)

    return progress


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start processes that Ctrl-C, which reaches the whole terminal group, does not reach."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_renderer(leash: "Connection[Any, Any]", shares: "ctypes.Array[ctypes.c_double]") -> None:
    """Prepare a process of the pool."""
    _shares.set(shares)
    threading.Thread(target=_end_with_parent, args=(leash,), daemon=True).start()


def _end_with_parent(leash: "Connection[Any, Any]") -> None:
    leash.poll(None)  # nothing is ever sent: it is closed by hand, or by the parent's end
    os._exit(1)


def _render(number: int, order: FilmOrder, cache: Path) -> Film:
    shares = _shares.get()
    return make_film(order, cache=cache, progress=lambda share: shares.__setitem__(number, share))
