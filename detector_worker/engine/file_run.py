"""The same job on a file: lossless, as fast as it goes, in media time."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from detector_worker.core.clock import SystemClock
from detector_worker.core.config import Configuration
from detector_worker.core.entities import Visit, VisitEnded
from detector_worker.core.outbox import Outbox
from detector_worker.engine.engine import LaneResult, SubscriptionSpec
from detector_worker.engine.group import Group
from detector_worker.engine.lane import Analysed
from detector_worker.engine.messages import GroupEvent
from detector_worker.engine.runs import LiveLane
from detector_worker.streams.file_reader import FileReader
from detector_worker.streams.frame_stamper import FrameStamper

__all__ = ["FileRun", "analyse_file"]

_CAMERA_ID: Final = "file"


@dataclass(slots=True)
class FileRun:
    """What a file came to."""

    frames: int = 0
    """Decoded ones."""
    analysed: int = 0
    seconds: float = 0.0
    """From the first frame to the last run's end; loading models is not counted."""
    visits: dict[str, Visit] = field(default_factory=dict)
    """Ended ones, by record id, in the order of their ends."""
    results: dict[str, LaneResult] = field(default_factory=dict)
    """By record id."""


async def analyse_file(
    video: Path,
    archive: str,
    *,
    configuration: Configuration,
    outbox: Outbox,
    threads: int,
    on_analysed: Callable[[Analysed], None],
    on_result: Callable[[LaneResult], None],
) -> FileRun:
    """Analyse a video file from its beginning to its end.

    Args:
        video: Any file that FFmpeg reads.
        archive: Path or URL of the archive.
        configuration: All settings.
        outbox: Where records and pictures are accepted.
        threads: Of inference.
        on_analysed: Takes each analysed frame, in an analysis thread, before the next one is analysed.
        on_result: Takes each finished pipeline run, on the event loop.

    Raises:
        DetectorWorkerError: The file or the archive cannot be read.
    """
    run = FileRun()

    def observe(analysed: Analysed) -> None:
        run.analysed += 1
        run.visits |= {event.visit.record_id: event.visit for event in analysed.events if isinstance(event, VisitEnded)}
        on_analysed(analysed)

    def tell(event: GroupEvent) -> None:
        if isinstance(event, LaneResult) and event.record_id is not None:
            run.results[event.record_id] = event
            on_result(event)

    group = Group(configuration, outbox=outbox, tell=tell, threads=threads)
    await group.start()
    try:
        spec = SubscriptionSpec(
            subscription_id=f"{video.stem};{_CAMERA_ID}",
            display_id=video.stem,
            camera_id=_CAMERA_ID,
            model_url=archive,
        )
        live = await group.load_lane(spec, lossless=True, observe=observe)
        group.schedule(live)
        await _feed(video, group, live, run)
    finally:
        await group.stop(grace_s=0)
    return run


async def _feed(video: Path, group: Group, live: LiveLane, run: FileRun) -> None:
    stopping = threading.Event()
    began_s = time.monotonic()
    try:
        last_s = await asyncio.to_thread(_read, video, live, run, stopping)
    finally:
        stopping.set()
        live.lane.slot.close()
    group.unschedule(live)
    ended = await group.finish_visits(live, last_s)
    run.visits |= {visit.record_id: visit for visit in ended}
    run.seconds = time.monotonic() - began_s


def _read(video: Path, live: LiveLane, run: FileRun, stopping: threading.Event) -> float:
    """Offer every frame to the lane, wait for the last one, and return its time; blocks."""
    last_s = 0.0
    with closing(FileReader(video, FrameStamper(_CAMERA_ID), clock=SystemClock(), stopping=stopping)) as reader:
        reader.connect()
        while (frame := reader.read_frame()) is not None:
            run.frames += 1
            last_s = frame.time_s
            live.lane.offer(frame)
    while not live.lane.is_idle and not stopping.wait(0.002):
        pass
    return last_s
