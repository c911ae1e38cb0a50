"""The command line: one module a command group."""

import sys
from typing import Annotated

import typer

from detector_worker import __version__
from detector_worker.cli.bench import bench
from detector_worker.cli.demo import demo
from detector_worker.cli.doctor import doctor
from detector_worker.cli.mpta import mpta
from detector_worker.cli.run import run
from detector_worker.cli.serve import serve
from detector_worker.cli.services import services
from detector_worker.cli.simulate import simulate
from detector_worker.cli.spool import spool
from detector_worker.core.exceptions import DetectorWorkerError

__all__ = ["main"]

_app = typer.Typer(
    name="detector-worker",
    help="Watches cameras and writes one database record per real vehicle.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for command in (serve, demo, run, simulate, services, doctor):
    _app.command()(command)
_app.add_typer(mpta)
_app.add_typer(spool)
_app.add_typer(bench)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@_app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Watches cameras and writes one database record per real vehicle."""


def main() -> None:
    """Run a command. Exit 0: done; 1: it could not be done, and one line says why; 2: wrong usage."""
    try:
        _app()
    except DetectorWorkerError as exc:
        typer.echo(f"detector-worker: {exc}", err=True)
        sys.exit(1)
