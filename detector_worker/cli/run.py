"""``detector-worker run``: the worker's whole job on one file."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from detector_worker.app import load_configuration, sessions_for, storage_for
from detector_worker.cli.annotation import Annotator
from detector_worker.core.config import Configuration
from detector_worker.core.entities import Visit
from detector_worker.core.exceptions import ConfigurationError
from detector_worker.engine.engine import LaneResult
from detector_worker.engine.file_run import FileRun
from detector_worker.engine.lane import Analysed
from detector_worker.engine.picture_run import PictureRun, pictures_in
from detector_worker.models.pipeline_json.document import printable
from detector_worker.storage.durable_storage import DurableStorage
from detector_worker.streams.file_reader import count_frames
from detector_worker.utils.logging import setup_logging

__all__ = ["run"]


def run(
    source: Annotated[
        Path, typer.Argument(help="A film that FFmpeg reads, a picture, or a folder of pictures.", exists=True)
    ],
    mpta: Annotated[str, typer.Option(help="The pipeline archive: a path or an address.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
    annotate: Annotated[Path | None, typer.Option(help="Write the analysed frames with their visits.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Keep records and pictures there.")] = None,
) -> None:
    """Analyse a video file as a camera would be, no frame dropped, as fast as it goes; or pictures, each by itself.

    Records go to PostgreSQL and pictures to Redis, as with cameras; without --data-dir into a folder that is
    removed afterwards.

    Example: detector-worker run gate.mp4 --mpta cars.mpta --annotate seen.mp4
    """
    if annotate is not None and _kind_of(source) is PictureRun:
        raise ConfigurationError("Pictures are not annotated", where="--annotate", mend="Leave it out, or name a film.")
    with nullcontext(data_dir) if data_dir else _temporary_folder() as folder:
        configuration = load_configuration(overrides={"server": {"data_dir": str(folder)}})
        setup_logging("WARNING")
        outcome = asyncio.run(_run(source, mpta, configuration, annotate, quiet=as_json))
    if as_json:
        typer.echo(orjson.dumps(_as_json(outcome)))
    else:
        _print(outcome)


async def _run(source: Path, mpta: str, configuration: Configuration, annotate: Path | None, *, quiet: bool) -> FileRun:
    async with _storage(configuration) as storage:
        with _progress(source, quiet=quiet) as advance, Annotator.writing_to(annotate) as annotator:

            def on_analysed(analysed: Analysed) -> None:
                advance(analysed.frame.frame_id)
                annotator.draw(analysed)

            sessions = sessions_for(configuration, storage)
            outcome = _kind_of(source)(outbox=sessions, on_analysed=on_analysed, on_run=annotator.note_result)
            threads = configuration.engine.analysis_threads or os.cpu_count() or 1
            await outcome.analyse(source, mpta, configuration, threads=threads)
            advance(outcome.frames)
            return outcome


def _kind_of(source: Path) -> type[FileRun]:
    return PictureRun if source.is_dir() or pictures_in(source) else FileRun


@asynccontextmanager
async def _storage(configuration: Configuration) -> AsyncIterator[DurableStorage]:
    storage = storage_for(configuration, notify_server=lambda *_: None, notify_sink=lambda _: None)
    await storage.start()
    try:
        yield storage
    finally:
        left = await storage.stop()
        if left is not None and left.entries:
            text = f"{left.entries} entries remain in the spool; the next start with this folder delivers them."
            typer.echo(text, err=True)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="detector-worker-"))
    folder.chmod(0o711)  # as root, the servers run as another account and must find their way
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _progress(video: Path, *, quiet: bool) -> "Iterator[Any]":
    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), MofNCompleteColumn(), TextColumn("frames"), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), disable=quiet) as progress:
        task = progress.add_task(printable(video.name), total=count_frames(video))
        yield lambda frame_id: progress.update(task, completed=frame_id)


def _as_json(outcome: FileRun) -> dict[str, Any]:
    visits = [_visit_as_json(visit, outcome.results.get(visit.record_id)) for visit in _in_order(outcome)]
    if isinstance(outcome, PictureRun):
        visits = [told | {"picture": visit.camera_id} for told, visit in zip(visits, _in_order(outcome), strict=True)]
    return {
        "visits": visits,
        "frames": outcome.frames,
        "analysed": outcome.analysed,
        "still": outcome.still,
        "seconds": round(outcome.seconds, 3),
        "frames_per_s": round(outcome.frames / outcome.seconds, 2) if outcome.seconds else None,
    }


def _visit_as_json(visit: Visit, result: LaneResult | None) -> dict[str, Any]:
    box = visit.bounding_box
    return {
        "record_id": visit.record_id,
        "class_name": visit.class_name,
        "first_s": round(visit.first_s, 3),
        "last_s": round(visit.last_s, 3),
        "xyxy": [round(side, 1) for side in (box.x1, box.y1, box.x2, box.y2)],
        "fields": result.fields if result else {},
        "branches": result.branches if result else {},
        "status": result.status if result else "failed",
    }


def _in_order(outcome: FileRun) -> list[Visit]:
    return sorted(outcome.visits.values(), key=lambda visit: (visit.first_s, visit.record_id))


def _print(outcome: FileRun) -> None:
    are_pictures = isinstance(outcome, PictureRun)
    where = ("picture",) if are_pictures else ("from", "to")
    table = Table(*where, "object", "branches", "status", title=f"{len(outcome.visits)} visits")
    for visit in _in_order(outcome):
        result = outcome.results.get(visit.record_id)
        branches = result.branches if result else {}
        labels = ", ".join(
            printable(str(value))
            for one in branches.values()
            for key, value in one.items()
            if key not in {"confidence", "type"}
        )
        status = result.status if result else "failed"
        seen = (printable(visit.camera_id),) if are_pictures else (f"{visit.first_s:.1f} s", f"{visit.last_s:.1f} s")
        # Names come from archives and files: neither markup nor control characters of theirs reach the terminal.
        table.add_row(*map(Text, (*seen, printable(visit.class_name), labels, status)))
    Console().print(table)
    rate = outcome.frames / outcome.seconds if outcome.seconds else 0.0
    looked_at = f"{outcome.analysed} analysed, {outcome.still} passed over as still"
    typer.echo(f"{outcome.frames} frames ({looked_at}) in {outcome.seconds:.1f} s: {rate:.1f} frames/s")
