"""``detector-worker services``: where a running worker's servers are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import orjson
import typer

from detector_worker.app import load_configuration
from detector_worker.core.exceptions import ServiceError
from detector_worker.storage.durable_storage import WORKER_LOCK
from detector_worker.storage.folder_lock import FolderLock

__all__ = ["RunningServices", "find_services", "services"]


@dataclass(frozen=True, slots=True)
class RunningServices:
    """Where a running worker keeps things; the fields are those of ``--json``."""

    pid: int
    postgresql: str
    """As psql takes it: ``host=... port=... dbname=... user=...``."""
    redis: str
    """As redis-cli takes it: ``-s path`` or ``-u address``."""


def services(
    data_dir: Annotated[Path | None, typer.Option(help="The worker's data folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Print the addresses of the running worker's PostgreSQL and Redis, for psql and redis-cli.

    Example: psql "$(detector-worker services --json | jq -r .postgresql)"
    """
    overrides = {"server": {"data_dir": str(data_dir)}} if data_dir else {}
    found = find_services(load_configuration(overrides=overrides).server.data_dir)
    if as_json:
        typer.echo(orjson.dumps(found))
        return
    typer.echo(f"psql '{found.postgresql}'")
    typer.echo(f"redis-cli {found.redis}")


def find_services(data_dir: Path) -> RunningServices:
    """Read where the servers of the worker that runs in a data folder are.

    Raises:
        ServiceError: None runs there.
    """
    note = FolderLock(data_dir / WORKER_LOCK).read()
    match note:
        case {"pid": int(pid), "postgresql": str(postgresql), "redis": str(redis)}:
            return RunningServices(pid, postgresql, redis)
    raise ServiceError(
        "No worker runs here",
        where=str(data_dir),
        mend="Start one with `detector-worker serve`, or give its --data-dir.",
    )
