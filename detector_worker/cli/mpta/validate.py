"""``detector-worker mpta validate``: everything that a worker would find out when it loads an archive."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import orjson
import typer

from detector_worker.cli.mpta.database_check import check_database, declaration_faults
from detector_worker.cli.mpta.description import shown
from detector_worker.cli.mpta.loading import BROKEN, new_loader, packed
from detector_worker.core.exceptions import DetectorWorkerError, PipelineError
from detector_worker.models.pipeline_json.parser import faults_of
from detector_worker.models.pipeline_loader import LoadedPipeline, PipelineLoader

__all__ = ["Verdict", "judge", "say", "validate"]


@dataclass(slots=True)
class Verdict:
    """What is to be said of one archive; the fields are those of ``--json``."""

    archive: str
    is_valid: bool = False
    faults: list[str] = field(default_factory=list)
    mend: str | None = None
    warnings: list[str] = field(default_factory=list)
    sha256: str | None = None
    models: list[str] = field(default_factory=list)


def validate(
    archives: Annotated[list[Path], typer.Argument(help="Archives, or folders to be packed.", exists=True)],
    database: Annotated[str | None, typer.Option(help="Also look for its tables in postgresql://...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list, and nothing else.")] = False,
) -> None:
    """Check archives as a worker does: unpacked, parsed, every model read, compiled and tried, classes compared.

    With --database, also that the tables and columns which actions name exist or are declared; nothing is written.
    Exit 0: all are fine, 2: one is broken, 1: something else failed.

    Example: detector-worker mpta validate gate.mpta --database postgresql://worker@db/site
    """
    verdicts = asyncio.run(_judge_all(archives, database))
    if as_json:
        typer.echo(orjson.dumps(verdicts))
    else:
        for verdict in verdicts:
            say(verdict)
    if not all(verdict.is_valid for verdict in verdicts):
        raise typer.Exit(2)


async def judge(loader: PipelineLoader, path: Path, *, database: str | None = None) -> Verdict:
    """Check one archive or folder; DatabaseError and the like: something else failed."""
    verdict = Verdict(path.name or str(path))
    try:
        with packed(path) as archive:
            pipeline = await loader.load_pipeline(archive)
            try:
                await _look_further(verdict, pipeline, database)
            finally:
                pipeline.close()
    except BROKEN as exc:
        verdict.faults, verdict.mend = _faults(exc), exc.mend
    verdict.is_valid = not verdict.faults
    return verdict


def say(verdict: Verdict) -> None:
    """Print a verdict for people; faults go to standard error."""
    for warning in verdict.warnings:
        typer.echo(f"{verdict.archive}: warning: {warning}", err=True)
    if verdict.is_valid:
        typer.echo(f"{verdict.archive}: valid; models {', '.join(verdict.models)}")
        return
    typer.echo(f"{verdict.archive}: broken", err=True)
    for fault in verdict.faults:
        typer.echo(f"  {fault}", err=True)
    if verdict.mend:
        typer.echo(f"  {verdict.mend}", err=True)


async def _judge_all(paths: list[Path], database: str | None) -> list[Verdict]:
    with new_loader() as loader:
        return [await judge(loader, path, database=database) for path in paths]


async def _look_further(verdict: Verdict, pipeline: LoadedPipeline, database: str | None) -> None:
    verdict.sha256, verdict.warnings = pipeline.sha256, list(pipeline.warnings)
    models = pipeline.models.values()
    verdict.models = [f"{shown(model.model_id, 60)} ({model.reading.layout})" for model in models]
    verdict.faults += declaration_faults(pipeline.config)
    if database is not None:
        findings = await check_database(pipeline.config, database)
        verdict.faults += findings.faults
        verdict.warnings += findings.warnings


def _faults(error: DetectorWorkerError) -> list[str]:
    return faults_of(error) if isinstance(error, PipelineError) else [f"{error.what} [{error.where}]"]
