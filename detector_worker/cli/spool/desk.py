"""What all commands of the spool share: the options, the desk, and whether a worker runs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from detector_worker.app import load_configuration
from detector_worker.core.config import Configuration
from detector_worker.core.settings import MIB
from detector_worker.storage.durable_storage import SPOOL_FILE, WORKER_LOCK
from detector_worker.storage.folder_lock import FolderLock
from detector_worker.storage.spool.desk import SpoolDesk

__all__ = ["AsJson", "DataDir", "configured", "desk_of", "progress", "running_worker"]

DataDir = Annotated[Path | None, typer.Option(help="The worker's data folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]


def configured(data_dir: Path | None, file: Path | None = None) -> Configuration:
    """Return the worker's configuration, with another data folder where one is given."""
    return load_configuration(file, {"server": {"data_dir": str(data_dir)}} if data_dir else {})


def desk_of(configuration: Configuration) -> SpoolDesk:
    """Return the desk of a worker's spool, to be entered."""
    return SpoolDesk(configuration.server.data_dir / SPOOL_FILE, quota_bytes=configuration.spool.quota_mb * MIB)


def running_worker(configuration: Configuration) -> int | None:
    """Return the process of the worker that runs in the data folder."""
    pid = FolderLock(configuration.server.data_dir / WORKER_LOCK).read().get("pid")
    return pid if isinstance(pid, int) else None


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """Show on standard error how much is done, if that is a terminal; yields what takes the number done, and of all."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    is_terminal = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, of_all: bar.update(task, completed=done, total=of_all)
