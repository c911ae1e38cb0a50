"""``detector-worker spool drain``: deliver without serving, so that a machine can be taken out of service."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer

from detector_worker.app import storage_for
from detector_worker.cli.interrupt import until_interrupted
from detector_worker.cli.mpta.description import shown
from detector_worker.cli.spool.desk import DataDir, configured, desk_of, progress, running_worker
from detector_worker.cli.spool.texts import waiting_lines
from detector_worker.core.config import Configuration
from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import Sink
from detector_worker.storage.drainers import SinkState
from detector_worker.storage.spool.backlog import Backlog
from detector_worker.storage.spool.spool import Spool
from detector_worker.utils.logging import setup_logging

__all__ = ["drain"]

_LOOK_EVERY_S: Final = 0.1


def drain(
    data_dir: DataDir = None,
    config: Annotated[Path | None, typer.Option(help="Configuration, JSON or YAML, as of `serve`.")] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds after which it ends, whatever remains.")] = 60.0,
) -> None:
    """Deliver what waits without serving: before a machine is taken away.

    Ends once nothing waits, after --timeout, or with Ctrl-C, and prints what remains. Takes the folder as a worker
    does, so none may run there, and starts the servers that the configuration asks for. Exit 0: nothing waits any
    more; 1: something does. Dead letters do not count: see `spool list --dead`.

    Example: detector-worker spool drain --data-dir /var/lib/detector-worker --timeout 600
    """
    configuration = configured(data_dir, config)
    if (pid := running_worker(configuration)) is not None:
        raise ServiceError(
            f"A worker runs here, process {pid}, and delivers by itself",
            where=str(configuration.server.data_dir),
            mend="`detector-worker spool status` tells how far it is; to drain, stop it first.",
        )
    backlog = _status(configuration)
    if _number_waiting(backlog):
        down = asyncio.run(_drain(configuration, timeout))
        backlog = _status(configuration)
        for sink, reason in down.items():
            typer.echo(f"No delivery to {sink}: {shown(reason, 300)}", err=True)
    for line in waiting_lines(backlog):
        typer.echo(line)
    if _number_waiting(backlog):
        raise typer.Exit(1)


async def _drain(configuration: Configuration, timeout_s: float) -> dict[Sink, str]:
    """Deliver; return which sinks are down, and why."""
    down: dict[Sink, str] = {}

    def note(state: SinkState) -> None:
        if state.is_up:
            down.pop(state.sink, None)
        else:
            down[state.sink] = state.reason or "it is down"

    storage = storage_for(configuration, notify_server=lambda *_: None, notify_sink=note)
    interrupted = asyncio.create_task(until_interrupted(), name="interrupt")  # heard from now on
    with progress("Delivering") as advance:
        setup_logging("ERROR")  # one line each, without control characters
        await storage.start()
        ending = (interrupted, asyncio.create_task(_until_empty(storage.spool, advance), name="until empty"))
        try:
            done, _ = await asyncio.wait(ending, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in ending:
                task.cancel()
            await storage.stop()
    return down


async def _until_empty(spool: Spool, advance: Callable[[int, int], None]) -> None:
    at_first = 0
    while waiting := _number_waiting(await spool.backlog()):
        at_first = max(at_first, waiting)
        advance(at_first - waiting, at_first)
        await asyncio.sleep(_LOOK_EVERY_S)


def _status(configuration: Configuration) -> Backlog:
    with desk_of(configuration) as desk:
        return desk.status()


def _number_waiting(backlog: Backlog) -> int:
    return sum(sink.entries for sink in backlog.sinks.values())
