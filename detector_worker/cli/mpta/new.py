"""``detector-worker mpta new``: a folder to begin an archive with."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from detector_worker.cli.mpta.draft import ModelFile, draft_pipeline, model_parts, sample_parts
from detector_worker.cli.mpta.loading import exit_2_if_broken, new_loader, writing
from detector_worker.cli.mpta.texts import pipeline_text, readme_text, schema_text
from detector_worker.cli.mpta.validate import Verdict, judge, say
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime

__all__ = ["new"]


def new(
    folder: Annotated[Path, typer.Argument(help="To be made; it must not exist yet, or be empty.")],
    detector: Annotated[Path | None, typer.Option(help="Its detector.", exists=True, dir_okay=False)] = None,
    classifier: Annotated[list[Path] | None, typer.Option(help="A classifier; may be repeated.", exists=True)] = None,
    ocr: Annotated[Path | None, typer.Option(help="A text reader.", exists=True, dir_okay=False)] = None,
) -> None:
    """Begin an archive: a folder with a pipeline.json that fits the models, their layouts and classes filled in.

    It makes a record and a picture of each visit, and a branch of each further model. What the models do not say of
    themselves is guessed, and listed. Without models it is a template, and its README.md says what to put where.

    Example: detector-worker mpta new gate --detector cars.onnx --classifier brand.onnx
    """
    files = [ModelFile(detector, "detection")] if detector else []
    files += [ModelFile(path, "classification") for path in classifier or ()]
    files += [ModelFile(ocr, "ocr")] if ocr else []
    if files and not detector:
        raise typer.BadParameter("a pipeline begins with a detector: give --detector too")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise typer.BadParameter(f"{folder} is there already and not empty; nothing is ever overwritten")
    with exit_2_if_broken():
        parts, guesses = (
            model_parts(files, OpenVINORuntime(threads=os.cpu_count() or 1, requests=1))
            if files
            else (sample_parts(), [])
        )
    with writing(folder):
        _write(folder, pipeline_text(draft_pipeline(folder.resolve().name, parts)), readme_text(guesses), files)
    typer.echo(f"{folder}: pipeline.json, {len(files)} models; README.md says how to go on")
    if guesses:
        typer.echo("\n  ".join(["Guessed, check before use:", *guesses]))
    is_whole = all("alphabet" in part for part in parts if part["modelType"] == "ocr")
    if files and is_whole:
        verdict = asyncio.run(_judge(folder))
        say(verdict)
        if not verdict.is_valid:
            raise typer.Exit(2)


def _write(folder: Path, pipeline: str, readme: str, files: list[ModelFile]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"pipeline.json": pipeline, "pipeline.schema.json": schema_text(), "README.md": readme}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for file in files:
        weights = [file.path.with_suffix(".bin")] if file.path.suffix == ".xml" else []
        for path in (file.path, *weights):
            shutil.copyfile(path, folder / path.name)


async def _judge(folder: Path) -> Verdict:
    with new_loader(is_ours=True) as loader:
        return await judge(loader, folder)
