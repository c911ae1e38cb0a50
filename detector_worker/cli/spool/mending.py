"""``detector-worker spool retry`` and ``drop``: an operator's word on what can not be delivered by itself."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import typer

from detector_worker.cli.mpta.description import shown
from detector_worker.cli.spool.desk import DataDir, configured, desk_of, running_worker
from detector_worker.cli.spool.texts import entries_text
from detector_worker.storage.spool.desk import FiledEntry

__all__ = ["drop", "retry"]

_Keys = Annotated[list[str] | None, typer.Argument(help="Keys of entries, or their numbers as `list` prints them.")]
_Dead = Annotated[bool, typer.Option("--dead", help="All dead letters.")]


def retry(keys: _Keys = None, dead: _Dead = False, data_dir: DataDir = None) -> None:
    """Let dead letters wait for delivery again, once what was wrong is mended: a column, a permission.

    With each one that is named go all dead letters of its visit in its sink, in their old order. A running worker
    begins within a second; publications that are too old by then are dropped. Exit 0; 1: no such dead letter.

    Example: detector-worker spool retry 5c0b7d1e-5d0f-4a57-9b8e-0d7a0a8f2f11:create
    """
    names, configuration = _chosen(keys, all_dead=dead), configured(data_dir)
    with desk_of(configuration) as desk:
        revived = desk.retry(names)
    pid = running_worker(configuration)
    who = "`detector-worker serve` or `spool drain` delivers" if pid is None else f"the worker, process {pid}, delivers"
    typer.echo(f"Dead letters that wait again: {revived}; {who} them." if revived else "There are no dead letters.")


def drop(
    keys: _Keys = None,
    dead: _Dead = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Take entries out for good, after asking; `spool export` keeps a copy.

    With a record (CreateRecord) go its visit's later updates of the same table: an update without its record can never
    be delivered. What a running worker is just delivering may still arrive. Exit 0; 1: no such entry, or not agreed.

    Example: detector-worker spool drop --dead --yes
    """
    names = _chosen(keys, all_dead=dead)
    with desk_of(configured(data_dir)) as desk:
        doomed = desk.doomed(names)
        if not doomed:
            typer.echo("There are no dead letters.")
            return
        if not yes:
            typer.confirm(f"Drop {_kinds_text(doomed)} for good?", abort=True, err=True)
        typer.echo(f"Dropped: {entries_text(desk.drop(doomed))}.")


def _chosen(keys: Sequence[str] | None, *, all_dead: bool) -> Sequence[str] | None:
    """Return the names, or None for all dead letters."""
    if bool(keys) == all_dead:
        raise typer.BadParameter("give keys or numbers, or --dead for all dead letters")
    return None if all_dead else keys


def _kinds_text(entries: Sequence[FiledEntry]) -> str:
    kinds = Counter(entry.kind for entry in entries)
    return f"{entries_text(len(entries))} ({', '.join(f'{number} {shown(kind)}' for kind, number in kinds.items())})"
