"""``detector-worker mpta``: make, check, look at, sign and ship archives."""

import typer

from detector_worker.cli.mpta.convert import convert
from detector_worker.cli.mpta.inspect import inspect
from detector_worker.cli.mpta.migrate import migrate
from detector_worker.cli.mpta.new import new
from detector_worker.cli.mpta.schema import schema
from detector_worker.cli.mpta.shipping import pack, sign, verify
from detector_worker.cli.mpta.validate import validate

__all__ = ["mpta"]

mpta = typer.Typer(
    name="mpta",
    help="Make, check, look at, sign and ship archives.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (new, validate, inspect, pack, sign, verify, migrate, schema, convert):
    mpta.command()(command)
