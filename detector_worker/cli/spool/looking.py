"""``detector-worker spool status``, ``list`` and ``show``: nothing is changed."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detector_worker.cli.mpta.description import shown, size_text
from detector_worker.cli.mpta.loading import writing
from detector_worker.cli.spool.desk import AsJson, DataDir, configured, desk_of, running_worker
from detector_worker.cli.spool.texts import duration_text, json_text, lost_text, moment_text, waiting_lines
from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import Sink
from detector_worker.storage.spool.backlog import Backlog
from detector_worker.storage.spool.desk import FiledContent, FiledEntry

__all__ = ["list_entries", "show", "status"]

_UNBOUNDED_WIDTH = 240


def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Tell what waits, what can never be delivered, and what was lost and why.

    Exit 0, however much waits; 1: there is no spool, or it cannot be read.

    Example: detector-worker spool status --json | jq .sinks.postgresql.entries
    """
    configuration = configured(data_dir)
    with desk_of(configuration) as desk:
        backlog = desk.status()
    pid = running_worker(configuration)
    if as_json:
        typer.echo(json_text(_as_json(backlog, pid)))
        return
    typer.echo("No worker runs here." if pid is None else f"A worker runs here, process {pid}.")
    for line in waiting_lines(backlog):
        typer.echo(line)
    used, quota = size_text(backlog.size_bytes), size_text(backlog.quota_bytes)
    typer.echo(f"Room: {used} of {quota} taken; pictures that wait: {backlog.pictures}")
    typer.echo(f"Lost so far: {shown(lost_text(backlog), 300)}")


def list_entries(
    *,
    data_dir: DataDir = None,
    sink: Annotated[Sink | None, typer.Option(help="Only what goes there.")] = None,
    dead: Annotated[
        bool, typer.Option("--dead", help="Only dead letters: what can never be delivered as it is.")
    ] = False,
    visit: Annotated[str | None, typer.Option(help="Only what belongs to the visit of this record id.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many, the oldest ones; 0: all.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List what is in the spool, oldest first.

    The other commands take an entry's key or its number. With --json: a list of objects, times in seconds since 1970.
    Exit 0; 1: there is no spool, or it cannot be read.

    Example: detector-worker spool list --dead --sink postgresql
    """
    with desk_of(configured(data_dir)) as desk:
        found = desk.entries(sink=sink, visit_id=visit, dead_only=dead, limit=limit + 1 if limit else None)
    listed = found[:limit] if limit else found
    if as_json:
        typer.echo(json_text([asdict(entry) for entry in listed]))
        return
    _print_table(listed)
    if len(found) > len(listed):
        typer.echo("There are more: --limit 0 lists all.", err=True)


def show(
    key: Annotated[str, typer.Argument(help="An entry's key, or its number as `list` prints it.")],
    data_dir: DataDir = None,
    picture: Annotated[Path | None, typer.Option(help="Write the entry's picture into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show one entry with everything that it holds.

    Exit 0; 1: there is no such entry, it has no picture, or the file cannot be written.

    Example: detector-worker spool show 17 --picture car.jpg
    """
    with desk_of(configured(data_dir)) as desk:
        content = desk.content(desk.find([key])[0].seq)
    if content is None:
        raise ServiceError("It was delivered just now", where=ascii(key), mend="There is nothing left to show.")
    if picture is not None:
        _write_picture(picture, content)
    if as_json:
        size_bytes = None if content.picture is None else len(content.picture)
        typer.echo(json_text({**asdict(content.entry), "payload": content.payload, "picture_bytes": size_bytes}))
    else:
        _print_content(content)


def _as_json(backlog: Backlog, pid: int | None) -> dict[str, Any]:
    told = asdict(backlog) | {"worker": pid, "sinks": {str(sink): one for sink, one in backlog.sinks.items()}}
    return {name: value for name, value in told.items() if name not in {"accepted", "refused"}}


def _print_table(entries: list[FiledEntry]) -> None:
    if not entries:
        typer.echo("Nothing.")
        return
    # On a narrow terminal the key and the reason are cut, each entry keeps to its line, and the number still names it.
    table = Table(box=None, pad_edge=False)
    for title in ("no.", "key", "kind", "sink", "age", "size", "tries", "reason"):
        table.add_column(title, no_wrap=title not in {"key", "reason"})
    for entry in entries:
        age, size = duration_text(time.time() - entry.created_at), size_text(entry.size_bytes)
        known = (str(entry.seq), entry.key, entry.kind, entry.sink, age, size, str(entry.attempts))
        cells = (shown(text) for text in (*known, entry.dead_reason or ""))
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _UNBOUNDED_WIDTH
    console.print(table)


def _print_content(content: FiledContent) -> None:
    entry = content.entry
    facts = {
        "key": entry.key,
        "number": str(entry.seq),
        "kind": f"{entry.kind} for {entry.sink}",
        "visit": entry.visit_id,
        "size": size_text(entry.size_bytes),
        "made": moment_text(entry.created_at),
        "too old": None if entry.expires_at is None else moment_text(entry.expires_at),
        "tries": str(entry.attempts),
        "dead letter": None if entry.dead_at is None else moment_text(entry.dead_at),
        "why": entry.dead_reason,
        "picture": None if content.picture is None else f"{size_text(len(content.picture))}, --picture FILE writes it",
    }
    for name, text in facts.items():
        if text is not None:
            typer.echo(f"{name}: {shown(text, len(text))}")
    typer.echo(json_text(content.payload, indent=True))


def _write_picture(path: Path, content: FiledContent) -> None:
    if content.picture is None:
        mend = "`detector-worker spool list --sink redis` shows those of kind StoreImage."
        raise ServiceError("This entry has no picture", where=f"entry {content.entry.seq}", mend=mend)
    with writing(path):
        path.write_bytes(content.picture)
