"""``detector-worker serve``: the worker itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from detector_worker import app
from detector_worker.communication.camera_lists import read_cameras_file
from detector_worker.core.config import Configuration, EnvironmentConfigProvider
from detector_worker.engine.engine import SubscriptionSpec

__all__ = ["serve"]


def serve(
    host: Annotated[str | None, typer.Option(help="Where to listen; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Default 8001, in prod 8000; 0: any free port.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept; default ./data.")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration, JSON or YAML.")] = None,
    cameras: Annotated[
        Path | None,
        typer.Option(help="Cameras to watch without a client, YAML or JSON.", exists=True, dir_okay=False),
    ] = None,
) -> None:
    """Watch cameras for the clients that subscribe, until Ctrl-C.

    Prints one line when it is ready. Without addresses in the configuration it starts a PostgreSQL and a
    Redis of its own in the data folder. With --cameras it needs no client; cameras.example.yaml shows such a file.

    Example: detector-worker serve --port 8001 --data-dir /var/lib/detector-worker --cameras cameras.yaml
    """
    server: dict[str, Any] = {"host": host, "port": port, "data_dir": str(data_dir) if data_dir else None}
    overrides = {"server": {key: value for key, value in server.items() if value is not None}}
    configuration = app.load_configuration(config, overrides)
    listed = _read(cameras, configuration) if cameras else ()
    app.main(_permitting(configuration, listed), listed)


def _read(path: Path, configuration: Configuration) -> Sequence[SubscriptionSpec]:
    camera_policy, archive_policy = app.network_policies(configuration)
    variables = EnvironmentConfigProvider().variables()
    listed, problems = read_cameras_file(
        path, camera_policy=camera_policy, archive_policy=archive_policy, variables=variables
    )
    if problems:
        typer.echo(f"detector-worker: {path} cannot be used:", err=True)
        for problem in problems:
            typer.echo(f"  {problem}", err=True)
        raise typer.Exit(2)
    return listed


def _permitting(configuration: Configuration, listed: Sequence[SubscriptionSpec]) -> Configuration:
    """Where archives are restricted to some folders, add the very files that the operator's own list names."""
    pipelines = configuration.pipelines
    if not (configuration.access.tokens or pipelines.allowed_paths):
        return configuration
    files = dict.fromkeys(Path(spec.model_url) for spec in listed if "://" not in spec.model_url)
    permitted = pipelines.model_copy(update={"allowed_paths": (*pipelines.allowed_paths, *files)})
    return configuration.model_copy(update={"pipelines": permitted})
