"""``detector-worker doctor``: what this machine can do, and what was found out about its models."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import psutil
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detector_worker import __version__
from detector_worker.app import load_configuration
from detector_worker.core.config import Configuration
from detector_worker.core.exceptions import ConfigurationError
from detector_worker.engine.group_models import lower_precisions, precision_records, runtime_choice
from detector_worker.models.pipeline_json.document import printable
from detector_worker.models.runtimes.selection import available_runtimes

__all__ = ["doctor"]

_EXTRAS: Final = {"gpu": "onnxruntime", "int8": "nncf", "ultralytics": "ultralytics"}
_GIB: Final = 1 << 30
_LEAST_FREE: Final = 2 * _GIB


def doctor(
    data_dir: Annotated[Path | None, typer.Option(help="The worker's data folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Show what this machine can do, in which precision its models are computed and why, and what is amiss.

    Exit 0: all is well; 1: something is amiss.

    Example: detector-worker doctor --data-dir /var/lib/detector-worker
    """
    configuration = load_configuration(overrides={"server": {"data_dir": str(data_dir)}} if data_dir else {})
    found = _examine(configuration)
    if as_json:
        typer.echo(orjson.dumps(found))
    else:
        _print(found)
    if found["amiss"]:
        raise typer.Exit(1)


def _examine(configuration: Configuration) -> dict[str, Any]:
    folder, amiss = configuration.server.data_dir, list(_amiss(configuration))
    runtimes, choice, computes_in = available_runtimes(), None, tuple[str, ...]()
    try:
        choice = runtime_choice(configuration.models)
        native = next(one.precisions for one in runtimes if one.name == choice.runtime)
        computes_in = ("f32", *lower_precisions(choice, native))
        if (precision := configuration.models.precision) not in {"auto", *computes_in}:
            told = f"models.precision is {precision}, this machine computes in {', '.join(computes_in)}"
            amiss.append(f"{told}: set it to auto")
    except ConfigurationError as exc:
        amiss.append(str(exc))
    return {
        "version": __version__,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            "cores": os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "free_bytes": shutil.disk_usage(_existing(folder)).free,
        },
        "runtimes": [asdict(one) for one in runtimes],
        "in_use": {
            "runtime": choice.runtime if choice else None,
            "device": choice.device if choice else None,
            "precision": configuration.models.precision,
            "precisions": computes_in,
        },
        "extras": {extra: find_spec(module) is not None for extra, module in _EXTRAS.items()},
        "precision_checks": [asdict(record) for record in precision_records(configuration).all()],
        "amiss": amiss,
    }


def _amiss(configuration: Configuration) -> Iterator[str]:
    folder = _existing(configuration.server.data_dir)
    if not os.access(folder, os.W_OK | os.X_OK):
        yield f"{folder} cannot be written to: set server.data_dir, or change its owner"
    if (free := shutil.disk_usage(folder).free) < _LEAST_FREE:
        yield f"{folder} has {free / _GIB:.1f} GiB left: the spool needs room for what cannot be delivered at once"


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that is there."""
    folder = folder.absolute()
    return next(one for one in (folder, *folder.parents) if one.is_dir())


def _print(found: dict[str, Any]) -> None:
    console, machine, in_use = Console(highlight=False), found["machine"], found["in_use"]
    console.print(f"Detector Worker {found['version']} on {machine['system']}")
    memory, free = machine["memory_bytes"] / _GIB, machine["free_bytes"] / _GIB
    console.print(f"{machine['cores']} cores, {memory:.1f} GiB of memory, {free:.0f} GiB free in the data folder")
    for one in found["runtimes"]:
        devices, precisions = ", ".join(one["devices"]), ", ".join(one["precisions"])
        console.print(f"{one['name']} {one['version']}: {devices}; {precisions}")
    wish, offered = in_use["precision"], ", ".join(in_use["precisions"])
    if in_use["runtime"]:
        console.print(f"Models run with {in_use['runtime']} on {in_use['device']}, precision {wish} (of {offered})")
    absent = [extra for extra, is_there in found["extras"].items() if not is_there]
    console.print(f"Extras not installed: {', '.join(absent) or 'none'}")
    _print_checks(console, found["precision_checks"])
    for fault in found["amiss"]:
        console.print(Text.assemble(("Amiss: ", "bold red"), fault))


def _print_checks(console: Console, checks: list[dict[str, Any]]) -> None:
    if not checks:
        console.print("No model was checked for a lower precision yet.")
        return
    table = Table("model", "precision", "taken", "why", "checked", title="Lower precisions, compared with f32")
    for one in checks:
        taken, day = "yes" if one["is_taken"] else "no", one["checked_at"][:10]
        # Model ids come from archives: neither markup nor control characters of theirs reach the terminal.
        table.add_row(Text(printable(one["model_id"])), one["precision"], taken, Text(printable(one["reason"])), day)
    console.print(table)
