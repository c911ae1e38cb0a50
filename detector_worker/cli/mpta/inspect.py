"""``detector-worker mpta inspect``: what is in an archive."""

import asyncio
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from detector_worker.cli.mpta.description import PipelineView, describe
from detector_worker.cli.mpta.loading import exit_2_if_broken, loaded, writing
from detector_worker.cli.mpta.picture import pipeline_svg
from detector_worker.cli.mpta.tree import pipeline_tree

__all__ = ["inspect"]


def inspect(
    archive: Annotated[Path, typer.Argument(help="The archive.", exists=True, dir_okay=False)],
    svg: Annotated[Path | None, typer.Option(help="Draw the pipeline into this file.", dir_okay=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Show the pipeline of an archive as a tree: its models as they are read, actions, branches, tables.

    Example: detector-worker mpta inspect gate.mpta --svg gate.svg
    """
    with exit_2_if_broken():
        view = asyncio.run(_view(archive))
    if svg is not None:
        with writing(svg):
            svg.write_text(pipeline_svg(view), encoding="utf-8")
    if as_json:
        typer.echo(orjson.dumps(view))
    else:
        Console().print(pipeline_tree(view))


async def _view(archive: Path) -> PipelineView:
    async with loaded(archive) as pipeline:
        return describe(pipeline, archive.name)
