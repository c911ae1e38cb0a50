"""``detector-worker mpta migrate``: an older archive brought to the present format."""

import asyncio
import shutil
from pathlib import Path
from typing import Annotated, Final

import typer

from detector_worker.cli.mpta.loading import exit_2_if_broken, new_loader, scratch_folder
from detector_worker.cli.mpta.shipping import say_left_out
from detector_worker.cli.mpta.texts import pipeline_text
from detector_worker.cli.mpta.validate import Verdict, judge, say
from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.archives.packing import pack_archive
from detector_worker.models.archives.unpacking import ArchiveLimits, unpack_archive
from detector_worker.models.pipeline_json.document import read_content
from detector_worker.models.pipeline_json.migration import migrate_pipeline

__all__ = ["migrate"]

_FILE: Final = "pipeline.json"


def migrate(
    source: Annotated[Path, typer.Argument(help="An archive, or its folder.", exists=True)],
    output: Annotated[Path | None, typer.Option(help="Archive to write; default: NAME.v1.mpta beside it.")] = None,
) -> None:
    """Rewrite an archive without schemaVersion to version 1, say every change, and what is left to be done.

    The source stays as it is, and no file is overwritten. Exit 2: the new archive was written and still has faults,
    which are told.

    Example: detector-worker mpta migrate old.mpta --output gate.mpta
    """
    source = source.resolve()
    target = output or source.with_name(f"{source.stem}.v1.mpta")
    if target.exists():
        raise typer.BadParameter(f"{target} is there already; name another file with --output")
    with exit_2_if_broken(), scratch_folder() as scratch:
        root = scratch / "files"
        if source.is_dir():
            shutil.copytree(source, root, symlinks=True)
        else:
            unpack_archive(source, root, ArchiveLimits(), where=f"archive {source.name!r}")
        file = _pipeline_file(root, source.name)
        document, changes = migrate_pipeline(read_content(file), where=f"archive {source.name!r}")
        file.write_text(pipeline_text(document), encoding="utf-8")
        say_left_out(pack_archive(root, target).left_out)
    for change in changes:
        typer.echo(f"  {change}")
    typer.echo(f"{target}: {len(changes)} changes")
    verdict = asyncio.run(_judge(target))
    say(verdict)
    if not verdict.is_valid:
        raise typer.Exit(2)


def _pipeline_file(root: Path, name: str) -> Path:
    for folder in (root, *sorted(root.iterdir())):
        if (folder / _FILE).is_file():
            return folder / _FILE
    mend = "Put it at the root of the ZIP archive, or in its only folder."
    raise ModelLoadError(f"The archive holds no {_FILE}", where=f"archive {name!r}", mend=mend)


async def _judge(archive: Path) -> Verdict:
    with new_loader(is_ours=True) as loader:
        return await judge(loader, archive)
