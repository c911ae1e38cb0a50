"""The worker's lane on a film: lossless, in media time, with the groups that come and go as they are told."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.truth.scenes import Watch
from detector_worker.cli.demo.comparison import PlayedFilm, Record
from detector_worker.core.config import Configuration
from detector_worker.core.entities import StreamStatus
from detector_worker.core.frame import Frame
from detector_worker.core.outbox import SavedVisit, SessionEntry, SpoolEntry
from detector_worker.engine.engine import LaneResult, SubscriptionOptions, SubscriptionSpec
from detector_worker.engine.group import Group
from detector_worker.engine.group_owner import GroupReport
from detector_worker.engine.lane import Lane
from detector_worker.simulator.film import Film
from detector_worker.simulator.screen import SentPicture
from detector_worker.streams.file_reader import FileReader

__all__ = ["FilmRun"]

_EPOCH_S: Final = 1_700_000_000.0
"""When every film begins, seconds since 1970: its own time is the only clock."""


class _FilmClock:
    """Stands at the film's beginning, from which `FileReader` counts on."""

    def monotonic_s(self) -> float:
        return 0.0

    def utc_s(self) -> float:
        return _EPOCH_S

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        return event.wait(timeout_s)


class FilmRun:
    """One film before one lane after the other, each in a group of its own. Is their `GroupOwner`.

    Attributes:
        played: What was shown; frames that no lane watched were not.
        records: As they would stand in the database once all runs have ended.
        analysed: Frames.
    """

    def __init__(self, film: Film, archive: Path, configuration: Configuration) -> None:
        truth = film.truth
        self._film, self._configuration = film, configuration
        options = SubscriptionOptions(ignore_masks=truth.ignore_masks)
        self._spec = SubscriptionSpec(
            f"bench;{truth.camera_id}", "bench", truth.camera_id, str(archive), options=options
        )
        self._sent: list[SentPicture] = []
        self._saved: dict[str, SavedVisit] = {}
        """The live visits by their record ids, as a store has them when their lane is gone."""
        self.records: list[Record] = []
        self.analysed = 0

    @property
    def played(self) -> PlayedFilm:
        return PlayedFilm(self._film.truth, self._sent)

    async def run(self, watched: Sequence[Watch]) -> None:
        """Analyse it.

        Raises:
            DetectorWorkerError: The film or the archive cannot be read.
        """
        stopping = threading.Event()
        with closing(FileReader(self._film.path, self._spec.camera_id, stopping, clock=_FilmClock())) as reader:
            reader.connect()
            frames = iter(reader.read_frame, None)
            for watch in watched:
                await self._watch(watch, frames, is_last=watch is watched[-1])

    async def _watch(self, watch: Watch, frames: Iterator[Frame], *, is_last: bool) -> None:
        group = Group(self._configuration, owner=self, threads=1, any_path=True)
        await group.start()
        try:
            lane = await group.load_lane(self._spec, lossless=True, observe=self._count)
            lane.visits.restore(tuple(self._saved.values()), now_s=watch.from_s, now_utc_s=_EPOCH_S + watch.from_s)
            group.schedule(lane)
            await asyncio.to_thread(self._offer, watch, frames, lane)
            group.unschedule(lane)
            if is_last:
                await group.finish_visits(lane)
        finally:
            await group.stop(grace_s=60)

    def _offer(self, watch: Watch, frames: Iterator[Frame], lane: Lane) -> None:
        """Show the lane what it watches of a film, and wait for the last frame; blocks."""
        for frame in frames:
            if frame.time_s < watch.from_s:
                continue
            self._sent.append(SentPicture(frame.captured_at, frame.time_s))
            lane.offer(frame)
            if frame.time_s >= watch.to_s:
                break
        while not lane.is_idle:
            threading.Event().wait(0.002)

    def _count(self, _: object) -> None:
        self.analysed += 1

    def on_result(self, result: LaneResult) -> None:
        """A run has ended: its fields are what stands in the row now."""
        if result.record_id is None:
            return
        row = dict(result.fields)
        box = result.detections[0].bounding_box
        self.records.append(
            Record(
                record_id=result.record_id,
                camera_id=result.camera_id,
                captured_s=result.captured_at,
                xyxy=(box.x1, box.y1, box.x2, box.y2),
                brand=_text(row.get("brand")),
                body=_text(row.get("body_type")),
                plate=_text(row.get("plate")),
            )
        )

    async def accept(
        self, entries: Sequence[SpoolEntry], *, visit: SavedVisit | None = None, session: SessionEntry | None = None
    ) -> None:
        """Keep the visit; everything else that is written is in the result too."""
        if visit is not None:
            self._saved[visit.visit.record_id] = visit

    async def save_visit(self, visit: SavedVisit) -> None:
        """Keep it up to date; what came with no entry stays unknown."""
        before = self._saved.get(visit.visit.record_id)
        if before is not None:  # a run that has ended stays so, wherever the vehicle is seen later
            is_complete = before.is_complete or visit.is_complete
            self._saved[visit.visit.record_id] = replace(visit, is_complete=is_complete)

    async def forget_visit(self, record_id: str) -> None:
        """It has ended."""
        self._saved.pop(record_id, None)

    def on_stream_status(self, status: StreamStatus) -> None:
        """A film is no stream."""

    def on_report(self, report: GroupReport) -> None:
        """The figures that count are the records."""

    def on_log(self, record: dict[str, object]) -> None:
        """This process has its own log."""


def _text(value: object) -> str | None:
    return None if value is None else str(value)
