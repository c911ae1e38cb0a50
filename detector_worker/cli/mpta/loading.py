"""What every command that looks at archives shares: the worker's own way of loading them, and how a command ends."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import typer

from detector_worker.app import load_configuration
from detector_worker.core.exceptions import (
    ConfigurationError,
    DetectorWorkerError,
    MessageProcessingError,
    ModelError,
    PipelineError,
)
from detector_worker.engine.group_models import GroupModels
from detector_worker.models.archives.packing import pack_archive
from detector_worker.models.pipeline_loader import LoadedPipeline, PipelineLoader

__all__ = ["BROKEN", "exit_2_if_broken", "loaded", "new_loader", "packed", "scratch_folder", "writing"]

BROKEN: Final = (ModelError, PipelineError, MessageProcessingError)
"""Errors that say that an archive is wrong; any other says that it could not be looked at."""


@contextmanager
def exit_2_if_broken(*also: type[DetectorWorkerError]) -> Iterator[None]:
    """Turn the error of a broken archive, or one of ``also``, into exit 2; any other becomes `main`'s exit 1."""
    errors: tuple[type[DetectorWorkerError], ...] = (*BROKEN, *also)
    try:
        yield
    except errors as exc:
        typer.echo(f"detector-worker: {exc}", err=True)
        raise typer.Exit(2) from exc


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write a file or folder into ours: exit 1."""
    try:
        yield
    except OSError as exc:
        mend = "Choose a place that may be written to and has room."
        raise ConfigurationError(f"It cannot be written: {exc.strerror or exc}", where=str(path), mend=mend) from exc


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of this command's own, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="detector-worker-mpta-") as folder:
        yield Path(folder)


@contextmanager
def new_loader(*, is_ours: bool = False) -> Iterator[PipelineLoader]:
    """The loader of a worker with this machine's configuration, and an empty cache.

    Args:
        is_ours: The archive is just being made here: no signature is asked of it.
    """
    with scratch_folder() as folder:
        overrides: dict[str, dict[str, Any]] = {"server": {"data_dir": str(folder)}}
        if is_ours:
            overrides["pipelines"] = {"trusted_keys": ()}
        models = GroupModels(load_configuration(overrides=overrides), threads=os.cpu_count() or 1, any_path=True)
        try:
            yield models.loader
        finally:
            models.close()


@asynccontextmanager
async def loaded(archive: Path, *, is_ours: bool = False) -> AsyncIterator[LoadedPipeline]:
    """Load one archive as a worker would, its models compiled; raises as `PipelineLoader.load_pipeline`."""
    with new_loader(is_ours=is_ours) as loader:
        pipeline = await loader.load_pipeline(archive)
        try:
            yield pipeline
        finally:
            pipeline.close()


@contextmanager
def packed(path: Path) -> Iterator[Path]:
    """An archive, or one that is packed of a folder for as long as it is looked at."""
    if not path.is_dir():
        yield path
        return
    with scratch_folder() as folder:
        archive = folder / f"{path.resolve().name}.mpta"
        pack_archive(path, archive)
        yield archive
