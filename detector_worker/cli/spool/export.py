"""``detector-worker spool export``: a copy of the spool that people and scripts can read."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from detector_worker.cli.mpta.loading import writing
from detector_worker.cli.spool.desk import DataDir, configured, desk_of, progress
from detector_worker.cli.spool.texts import entries_text, json_text
from detector_worker.core.exceptions import ConfigurationError
from detector_worker.storage.spool.desk import FiledContent, SpoolDesk

__all__ = ["export"]


def export(
    folder: Annotated[Path, typer.Argument(help="A new folder, or an empty one.", file_okay=False)],
    dead: Annotated[bool, typer.Option("--dead", help="Dead letters alone.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Copy all entries into a folder; the spool stays as it is.

    Dead letters are included. `entries.jsonl` has a JSON object for each entry; its `picture` names a file beside it.
    Exit 0; 1: there is no spool, or the folder has something in it or cannot be written.

    Example: detector-worker spool export kept --dead
    """
    entries = pictures = 0
    with desk_of(configured(data_dir)) as desk, writing(folder):
        _make_empty(folder)
        with (folder / "entries.jsonl").open("w", encoding="utf-8") as file, progress("Exporting") as advance:
            for content in _contents(desk, advance, dead_only=dead):
                name = _write_picture(folder, content)
                line = {**asdict(content.entry), "payload": content.payload, "picture": name}
                file.write(json_text(line) + "\n")
                entries += 1
                pictures += name is not None
    typer.echo(f"Exported: {entries_text(entries)}, {pictures} with a picture.")


def _make_empty(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        mend = "Name a new folder, or an empty one."
        raise ConfigurationError("There is something in this folder", where=str(folder), mend=mend)


def _contents(desk: SpoolDesk, advance: Callable[[int, int], None], *, dead_only: bool) -> Iterator[FiledContent]:
    """Yield one entry after the other; what is delivered meanwhile is passed over."""
    numbers = desk.numbers(dead_only=dead_only)
    for done, seq in enumerate(numbers, 1):
        content = desk.content(seq)
        if content is not None:
            yield content
        advance(done, len(numbers))


def _write_picture(folder: Path, content: FiledContent) -> str | None:
    """Write the picture, if there is one; no name from outside becomes part of a path."""
    if content.picture is None:
        return None
    name = f"{content.entry.seq:06d}.jpg"
    (folder / name).write_bytes(content.picture)
    return name
