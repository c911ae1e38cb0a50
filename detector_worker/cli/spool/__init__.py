"""``detector-worker spool``: what was accepted and is not delivered yet, looked at, mended, cleared and delivered."""

import typer

from detector_worker.cli.spool.drain import drain
from detector_worker.cli.spool.export import export
from detector_worker.cli.spool.looking import list_entries, show, status
from detector_worker.cli.spool.mending import drop, retry

__all__ = ["spool"]

spool = typer.Typer(
    name="spool",
    help="See what is not delivered yet, mend it, clear it, deliver it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
spool.command()(status)
spool.command("list")(list_entries)
for command in (show, retry, drop, export, drain):
    spool.command()(command)
