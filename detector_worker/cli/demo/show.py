"""The demo as a whole: cameras, worker, client and page, joined here and owned by one task group."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NoReturn

from rich.console import Console

from detector_worker.cli.demo.board import Board, RecordView
from detector_worker.cli.demo.client import Wish, WorkerClient
from detector_worker.cli.demo.comparison import PlayedFilm, compare, newest_sent
from detector_worker.cli.demo.page import Page, serving
from detector_worker.cli.demo.report import Report
from detector_worker.cli.demo.stores import count_pictures, read_picture, read_records
from detector_worker.cli.demo.terminal import say, show
from detector_worker.cli.demo.worker import SupervisedWorker
from detector_worker.cli.films import FilmProgress
from detector_worker.cli.services import RunningServices, find_services
from detector_worker.core.clock import rfc3339
from detector_worker.core.exceptions import DatabaseError, DetectorWorkerError, RedisError, ServiceError
from detector_worker.core.wire_messages import ImageDetectionPayload, StreamStatusPayload
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.faults import Fault, SnapshotFault
from detector_worker.simulator.film import Film, FilmOrder
from detector_worker.simulator.rtsp_server import RtspServer
from detector_worker.simulator.scenes.truth import SceneTruth
from detector_worker.simulator.screen import SentPicture
from detector_worker.simulator.snapshot_server import SnapshotServer

__all__ = ["Demo", "DemoPlan"]

_QUIET_S: Final = 4.0
_QUIET_LIMIT_S: Final = 60.0
_TICK_S: Final = 1.0
_SNAPSHOT_EVERY_MS: Final = 200
_LATEST: Final = 200
"""So many records at most can have been written while the client was away."""


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What is shown."""

    folder: Path
    """Where the worker's data and output go; every account may pass through."""
    archive: Path
    """Its pipeline writes the table ``gate_visits`` and the pictures that `stores` reads."""
    camera_ids: tuple[str, ...]
    films: Callable[[FilmProgress], AsyncGenerator[Film, None]]
    """One for each camera, in any order; `FilmOrder.camera` n is ``cam-n``."""
    snapshot_cameras: frozenset[str] = frozenset()
    """Those that are asked for single pictures over HTTP; the others are watched over RTSP."""
    plays_once: bool = False
    """Each film once, then a report; else for ever."""
    page_port: int = 0


class Demo:
    """`run` owns everything: tasks, the worker's process, the servers of cameras and page. Used on one event loop."""

    def __init__(self, plan: DemoPlan, console: Console) -> None:
        self._plan, self._console = plan, console
        self.board = Board(plan.camera_ids)
        self.worker = SupervisedWorker(plan.folder, notify=self.board.set_worker)
        self.page_url = ""
        self._client = WorkerClient(on_result=self._on_result, on_status=self._on_status)
        self.cameras: Final = RtspServer()
        self._snapshots = SnapshotServer()
        self._truths: dict[str, SceneTruth] = {}
        self._sent: dict[str, list[SentPicture]] = {}
        self._latencies_ms: list[float] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._is_stopped = False

    async def run(self) -> Report | None:
        """Show it until it is stopped, or the films are over; None: it was stopped.

        Raises:
            DetectorWorkerError: Something that the demo needs does not work.
        """
        page = Page(self.board, worker_url=lambda: self.worker.http_url, record_image=self._record_image)
        failed: BaseExceptionGroup[DetectorWorkerError] | None = None
        async with self.cameras, self._snapshots, serving(page, port=self._plan.page_port) as self.page_url:
            say(self._console, f"page: {self.page_url}")
            try:
                report = await self._run()
            except* DetectorWorkerError as group:
                failed = group
        if failed is not None:
            raise _first_of(failed)
        return report

    def stop(self) -> None:
        """End it in order; once more: at once, since whoever is cancelled twice does not tidy up any longer."""
        if not self._is_stopped:
            self._is_stopped = True
            say(self._console, "Ending; a second Ctrl-C ends it at once.")
        self._cancel()

    async def _run(self) -> Report | None:
        async with asyncio.TaskGroup() as tasks:
            beside: dict[str, Coroutine[Any, Any, object]] = {
                "terminal": show(self.board, self._console, page_url=self.page_url),
                "worker": self.worker.run(),
                "client": self._client.run(self.worker.url),
                "catch up": self._catch_up(),
            }
            self._tasks = [tasks.create_task(work, name=name) for name, work in beside.items()]
            films = tasks.create_task(self._show_films(), name="films")
            self._tasks.append(films)
            if self._is_stopped:
                self._cancel()
            await asyncio.wait({films})
            if not self._is_stopped:  # else they are cancelled already
                self._cancel()
        return None if films.cancelled() else films.result()

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _show_films(self) -> Report:
        """Put up a camera for each film; return once all have been played and the worker rests."""
        async with asyncio.TaskGroup() as playing, aclosing(self._plan.films(self._note_progress)) as films:
            async for film in films:
                await self._put_up(film)
                playing.create_task(self._play(film.truth))
        try:
            async with asyncio.timeout(_QUIET_LIMIT_S):
                rest_s = _QUIET_S
                while rest_s > 0:
                    await asyncio.sleep(rest_s)
                    rest_s = _QUIET_S - self._client.quiet_s
        except TimeoutError:
            what = f"The worker had not delivered everything {_QUIET_LIMIT_S:.0f} s after the films"
            mend = "Keep the data with --data-dir, and see what detector_worker.log tells."
            raise ServiceError(what, where="demo", mend=mend) from None
        return await self._report()

    async def _put_up(self, film: Film) -> None:
        truth = film.truth
        clip = await asyncio.to_thread(Clip.load, film.path)
        gives_snapshots = truth.camera_id in self._plan.snapshot_cameras
        url = (self._snapshots if gives_snapshots else self.cameras).add_camera(truth.camera_id, clip)
        self._truths[truth.camera_id], self._sent[truth.camera_id] = truth, []
        self.board.set_camera(truth.camera_id, "connecting")
        interval_ms = _SNAPSHOT_EVERY_MS if gives_snapshots else None
        self._client.subscribe(Wish(truth.camera_id, url, str(self._plan.archive), truth.ignore_masks, interval_ms))

    async def _play(self, truth: SceneTruth) -> None:
        """Keep what a camera sends until its film is over, then switch it off; for ever where it plays for ever."""
        if not self._plan.plays_once:
            await asyncio.Event().wait()
        sent, end_s = self._sent[truth.camera_id], truth.duration_s - 1.5 / truth.fps
        while not sent or sent[-1].film_s < end_s:
            rest_s = end_s - sent[-1].film_s if sent else _TICK_S
            await asyncio.sleep(min(_TICK_S, max(rest_s, 0.05)))
            seen_s = sent[-1].utc_s if sent else 0.0
            sent += [picture for picture in self._sent_by(truth.camera_id) if picture.utc_s > seen_s]
        if truth.camera_id in self._plan.snapshot_cameras:
            self._snapshots.set_fault(truth.camera_id, SnapshotFault.REFUSE)
        else:
            self.cameras.set_fault(truth.camera_id, Fault.REFUSE)
        self.board.set_camera(truth.camera_id, "played")

    def _sent_by(self, camera_id: str) -> tuple[SentPicture, ...]:
        gives_snapshots = camera_id in self._plan.snapshot_cameras
        return (self._snapshots if gives_snapshots else self.cameras).sent(camera_id)

    async def _report(self) -> Report:
        services = await self._services()
        records = await read_records(services)
        films = [PlayedFilm(truth, self._sent[camera_id]) for camera_id, truth in self._truths.items()]
        images = await count_pictures(services, [record.record_id for record in records])
        return Report(compare(films, records), images, tuple(self._latencies_ms))

    async def _catch_up(self) -> NoReturn:
        """After each restart of the worker, count the records whose results nobody was there to take."""
        restarts = 0
        while True:
            await asyncio.sleep(_TICK_S)
            if self.board.worker.restarts > restarts and self._client.quiet_s > 2 * _TICK_S:
                with suppress(DatabaseError, ServiceError):  # it has died again
                    newest = await read_records(await self._services(), limit=_LATEST)
                    restarts = self.board.worker.restarts
                    for one in reversed(newest):
                        time = rfc3339(one.captured_s)
                        view = RecordView(one.record_id, one.camera_id, time, one.brand, one.body, one.plate)
                        self.board.note_record(view)

    def _on_result(self, result: ImageDetectionPayload, arrived_s: float) -> None:
        captured_s = datetime.fromisoformat(result.timestamp).timestamp()
        picture = newest_sent(self._sent_by(result.camera_id), captured_s)
        latency_ms = None if picture is None else (arrived_s - picture.utc_s) * 1000
        if latency_ms is not None and self._plan.plays_once:
            self._latencies_ms.append(latency_ms)
        brand, body, plate = (_text(result.fields.get(name)) for name in ("brand", "body_type", "plate"))
        if result.record_id is not None:
            view = RecordView(
                result.record_id, result.camera_id, result.timestamp, brand, body, plate, latency_ms=latency_ms
            )
            self.board.note_record(view)

    def _on_status(self, status: StreamStatusPayload) -> None:
        self.board.set_camera(status.camera_id, status.state, status.reason or "")

    def _note_progress(self, order: FilmOrder, share: float) -> None:
        if share < 1:
            state, detail = ("filming", f"{share:.0%}") if share else ("waiting", "")
            self.board.set_camera(f"cam-{order.camera}", state, detail)

    async def _record_image(self, record_id: str) -> bytes | None:
        try:
            return await read_picture(await self._services(), record_id, "vehicle")
        except (RedisError, ServiceError):
            return None

    async def _services(self) -> RunningServices:
        return await asyncio.to_thread(find_services, self.worker.data_dir)


def _first_of(group: BaseExceptionGroup[DetectorWorkerError]) -> DetectorWorkerError:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _text(value: object) -> str | None:
    return None if value is None else str(value)
