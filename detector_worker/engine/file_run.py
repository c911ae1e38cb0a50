"""The same job on a file: lossless, as fast as it goes, in media time."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from detector_worker.core.clock import SystemClock
from detector_worker.core.config import Configuration
from detector_worker.core.entities import StreamStatus, Visit, VisitEvent
from detector_worker.core.outbox import Outbox
from detector_worker.engine.engine import LaneResult, SubscriptionSpec
from detector_worker.engine.group import Group
from detector_worker.engine.group_owner import GroupReport
from detector_worker.engine.lane import Analysed, Lane
from detector_worker.streams.file_reader import FileReader

__all__ = ["FileRun"]

_CAMERA_ID: Final = "file"


class FileRun:
    """One file, one group in this process, one lane. Is the group's `GroupOwner`.

    Attributes:
        frames: Decoded ones.
        analysed: Those in which objects were looked for; the archive's own rate leaves out others.
        still: Passed over, since they showed nothing new.
        seconds: From the first frame to the last run's end; loading models is not counted.
        visits: By record id.
        results: Finished runs, by record id.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        on_analysed: Callable[[Analysed], None],
        on_run: Callable[[LaneResult], None],
    ) -> None:
        """``on_analysed`` is called in an analysis thread, before the next frame is analysed."""
        self.frames = self.analysed = self.still = 0
        self.seconds = 0.0
        self.visits: dict[str, Visit] = {}
        self.results: dict[str, LaneResult] = {}
        self._on_analysed, self._on_run = on_analysed, on_run
        self.accept, self.save_visit, self.forget_visit = outbox.accept, outbox.save_visit, outbox.forget_visit
        self._stopping = threading.Event()

    async def analyse(self, video: Path, archive: str, configuration: Configuration, *, threads: int) -> None:
        """Analyse a file that FFmpeg reads with an archive's path or address.

        Raises:
            DetectorWorkerError: The file or the archive cannot be read.
        """
        group = Group(configuration, owner=self, threads=threads, any_path=True)
        await group.start()
        try:
            spec = SubscriptionSpec(f"{video.stem};{_CAMERA_ID}", video.stem, _CAMERA_ID, archive)
            lane = await group.load_lane(spec, lossless=True, observe=self._observe)
            group.schedule(lane)
            began_s = time.monotonic()
            await asyncio.to_thread(self._read, video, lane)
            group.unschedule(lane)
            self.still = lane.still
            self._note(await group.finish_visits(lane))
            self.seconds = time.monotonic() - began_s
        finally:
            self._stopping.set()
            await group.stop(grace_s=0)

    def on_result(self, result: LaneResult) -> None:
        """Keep a finished run."""
        if result.record_id is not None:
            self.results[result.record_id] = result
            self._on_run(result)

    def on_stream_status(self, status: StreamStatus) -> None:
        """A file is no stream."""

    def on_report(self, report: GroupReport) -> None:
        """Its figures are those of the whole run, at the end."""

    def on_log(self, record: dict[str, object]) -> None:
        """This process has its own log."""

    def _note(self, events: Sequence[VisitEvent]) -> None:
        self.visits |= {event.visit.record_id: event.visit for event in events}

    def _observe(self, analysed: Analysed) -> None:
        self.analysed += 1
        self._note(analysed.events)
        self._on_analysed(analysed)

    def _read(self, video: Path, lane: Lane) -> None:
        """Offer every frame to the lane and wait for the last one; blocks."""
        with closing(FileReader(video, _CAMERA_ID, self._stopping, clock=SystemClock())) as reader:
            reader.connect()
            while (frame := reader.read_frame()) is not None:
                self.frames += 1
                lane.offer(frame)
        while not lane.is_idle and not self._stopping.wait(0.002):
            pass
