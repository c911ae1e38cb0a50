"""``detector-worker services``: where a running worker's servers are."""

from pathlib import Path
from typing import Annotated

import orjson
import typer

from detector_worker.app import load_configuration
from detector_worker.core.exceptions import ServiceError
from detector_worker.storage.durable_storage import WORKER_LOCK
from detector_worker.storage.folder_lock import FolderLock

__all__ = ["services"]


def services(
    data_dir: Annotated[Path | None, typer.Option(help="The worker's data folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Print the addresses of the running worker's PostgreSQL and Redis, for psql and redis-cli.

    Example: psql "$(detector-worker services --json | jq -r .postgresql)"
    """
    overrides = {"server": {"data_dir": str(data_dir)}} if data_dir else {}
    folder = load_configuration(overrides=overrides).server.data_dir
    note = FolderLock(folder / WORKER_LOCK).read()
    if "postgresql" not in note:
        raise ServiceError(
            "No worker runs here",
            where=str(folder),
            mend="Start one with `detector-worker serve`, or give its --data-dir.",
        )
    if as_json:
        typer.echo(orjson.dumps(note))
        return
    typer.echo(f"psql '{note['postgresql']}'")
    typer.echo(f"redis-cli {note['redis']}")
