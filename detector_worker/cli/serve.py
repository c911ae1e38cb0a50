"""``detector-worker serve``: the worker itself."""

from pathlib import Path
from typing import Annotated, Any

import typer

from detector_worker import app

__all__ = ["serve"]


def serve(
    host: Annotated[str | None, typer.Option(help="Where to listen; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Default 8001, in prod 8000; 0: any free port.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept; default ./data.")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration, JSON or YAML.")] = None,
) -> None:
    """Watch cameras for the clients that subscribe, until Ctrl-C.

    Prints one line when it is ready. Without addresses in the configuration it starts a PostgreSQL and a
    Redis of its own in the data folder.

    Example: detector-worker serve --port 8001 --data-dir /var/lib/detector-worker
    """
    server: dict[str, Any] = {"host": host, "port": port, "data_dir": str(data_dir) if data_dir else None}
    overrides = {"server": {key: value for key, value in server.items() if value is not None}}
    app.main(app.load_configuration(config, overrides))
