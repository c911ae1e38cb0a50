"""A group: cameras with their readers, lanes, threads, models and runs; the unit of failure and of scaling.

`LocalEngine` runs groups as child processes; `run` and tests use the same object in their own process.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

from detector_worker.core.clock import SystemClock
from detector_worker.core.config import Configuration
from detector_worker.core.entities import StreamState, StreamStatus, VisitEvent
from detector_worker.core.outbox import SavedVisit
from detector_worker.engine.archive_watch import ArchiveWatch
from detector_worker.engine.camera_streams import camera_policy, stream_configs
from detector_worker.engine.engine import SessionId, SubscriptionSpec
from detector_worker.engine.group_models import GroupModels
from detector_worker.engine.group_owner import GroupOwner, GroupReport
from detector_worker.engine.lane import Analysed, Lane
from detector_worker.engine.lane_maker import LaneMaker
from detector_worker.engine.large_streams import LargeStreams
from detector_worker.engine.live_pictures import annotated_jpeg, jpeg, no_picture
from detector_worker.engine.runs import VisitRuns
from detector_worker.engine.scheduler import Scheduler
from detector_worker.streams.detail_stream import LARGE, DetailStream
from detector_worker.streams.stream_manager import StreamManager

__all__ = ["Group"]

_log: Final = logging.getLogger(__name__)
_REPORT_EVERY_S: Final = 1.0
_TEND_EVERY_S: Final = 0.25
_TEND_PRECISION_EVERY_S: Final = 2.0


class Group:
    """Owns its analysis threads, readers, models and runs. Used on one event loop.

    Args:
        configuration: All settings; what is needed is handed on value by value.
        owner: Takes what must not be lost, results, camera states and reports.
        threads: Analysis threads, each with one inference request.
        any_path: Archives are named by whoever started this process, not by clients: any path may be read.
    """

    def __init__(
        self, configuration: Configuration, *, owner: GroupOwner, threads: int, any_path: bool = False
    ) -> None:
        self._configuration, self._owner, self._clock = configuration, owner, SystemClock()
        self._scheduler = Scheduler(threads=threads)
        policy = camera_policy(configuration.streams)
        self._large_streams = LargeStreams(owner.on_stream_status, status_of=self._status_of)
        self._streams = StreamManager(notify=self._large_streams.take, clock=self._clock, policy=policy)
        self._models = GroupModels(configuration, threads=threads, any_path=any_path)
        self._maker = LaneMaker(
            configuration,
            self._models,
            outbox=owner,
            scheduler=self._scheduler,
            clock=self._clock,
            emit=self._emit,
        )
        self._sessions: dict[str, SessionId] = {}
        self._lanes: dict[str, Lane] = {}
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        max_at_once = configuration.engine.max_concurrent_runs
        self._runs = VisitRuns(owner=owner, max_at_once=max_at_once, sessions=self._sessions)

    async def start(self) -> None:
        """Start the analysis threads and the reports."""
        self._loop = asyncio.get_running_loop()
        archives = ArchiveWatch(self._models.loader, self._exchange_archive)
        self._scheduler.start()
        self._beside = [
            asyncio.create_task(self._report_loop(), name="group reports"),
            asyncio.create_task(self._tend_details(), name="large streams"),
            asyncio.create_task(self._tend_precision(), name="precisions"),
            asyncio.create_task(
                archives.watch(self._lanes, every_s=self._configuration.pipelines.refresh_seconds), name="archives"
            ),
        ]

    async def stop(self, *, grace_s: float) -> list[str]:
        """Stop reading, finish the runs under way; return the names of what did not stop in time."""
        for task in self._beside:
            task.cancel()
        self._models.close()
        self._maker.close()
        await self._streams.stop_all_streams()
        for lane in self._lanes.values():
            self.unschedule(lane)
        left = await self._runs.finish(timeout_s=grace_s)
        for lane in self._lanes.values():
            self._maker.retire(lane)
        return left + await asyncio.to_thread(self._scheduler.stop)

    async def start_lane(
        self, spec: SubscriptionSpec, *, saved_visits: tuple[SavedVisit, ...], session_id: SessionId | None
    ) -> None:
        """Analyse a camera for a subscription; one of the same name is replaced once the new one is ready.

        Raises:
            DetectorWorkerError: The archive or the address was refused; an old lane goes on.
        """
        for one in stream_configs(spec, self._configuration.streams):
            if one is not None:
                one.address()  # refuses it before anything has changed
        async with self._changes_of(spec.subscription_id):
            lane = await self.load_lane(spec, lossless=False)
            await self.set_session(spec.display_id, session_id)
            await self._install(lane, saved_visits)

    async def stop_lane(self, subscription_id: str) -> None:
        """End a lane; its runs under way are finished. Nothing happens where there is none."""
        async with self._changes_of(subscription_id):
            lane = self._lanes.pop(subscription_id, None)
            if lane is None:
                return
            closing = [self._streams.remove_stream(subscription_id)]
            if lane.detail is not None:
                self._large_streams.forget(lane.spec.camera_id)
                closing.append(lane.detail.close())
            await asyncio.gather(*closing)
            self.unschedule(lane)
            self._maker.retire(lane)

    async def reconnect(self, camera_id: str) -> None:
        """Connect to a camera anew at once, with all of its streams; nothing happens where there is none."""
        self._streams.reconnect_camera(camera_id)
        self._streams.reconnect_camera(camera_id + LARGE)

    async def set_session(self, display_id: str, session_id: SessionId | None) -> None:
        """Set or end the session of a display."""
        if session_id is None:
            self._sessions.pop(display_id, None)
        else:
            self._sessions[display_id] = session_id

    async def set_live_detections(self, subscription_id: str, *, wanted: bool) -> None:
        """Tell each analysed frame of a subscription, or no longer."""
        if (lane := self._lanes.get(subscription_id)) is not None:
            lane.live_detections = wanted

    async def newest_jpeg(self, camera_id: str, *, annotated: bool = False) -> bytes:
        """Return a camera's newest frame as JPEG, or the one that was analysed last with its tracks drawn in.

        Raises:
            StreamError: There is no frame yet, and why.
        """
        if annotated:
            for lane in self._lanes.values():
                if lane.spec.camera_id == camera_id and lane.newest is not None:
                    return await asyncio.to_thread(annotated_jpeg, lane, *lane.newest)
        elif (frame := self._streams.get_latest_frame(camera_id)) is not None:
            return await asyncio.to_thread(lambda: jpeg(frame.bgr()))
        raise no_picture(self._status_of(camera_id), is_seen=annotated)

    async def load_lane(
        self, spec: SubscriptionSpec, *, lossless: bool, observe: Callable[[Analysed], None] | None = None
    ) -> Lane:
        """Make a lane which nobody feeds or schedules yet; as `LaneMaker.make`."""
        return await self._maker.make(spec, lossless=lossless, observe=observe)

    def schedule(self, lane: Lane) -> None:
        """Analyse what is offered to a lane from now on."""
        self._lanes[lane.spec.subscription_id] = lane
        self._scheduler.add(lane)

    def unschedule(self, lane: Lane) -> None:
        """Analyse nothing further of a lane."""
        self._scheduler.remove(lane)
        lane.slot.close()

    async def finish_visits(self, lane: Lane) -> list[VisitEvent]:
        """End all visits of an idle, unscheduled lane, and wait for every run; as at the end of a file."""
        events = lane.visits.finish()
        for event in events:
            self._runs.take(lane, event)
        await self._runs.finish(timeout_s=None)
        return events

    def _changes_of(self, subscription_id: str) -> asyncio.Lock:
        """Return what whoever changes a subscription's lane holds meanwhile."""
        return self._changing.setdefault(subscription_id, asyncio.Lock())

    async def _install(self, lane: Lane, saved_visits: tuple[SavedVisit, ...]) -> None:
        """Put a new lane in its place, or let go of it."""
        try:
            await self._put_in_place(lane, saved_visits)
        except BaseException:
            if self._lanes.get(lane.spec.subscription_id) is lane:
                del self._lanes[lane.spec.subscription_id]
            self.unschedule(lane)
            self._maker.retire(lane)
            raise

    async def _put_in_place(self, lane: Lane, saved_visits: tuple[SavedVisit, ...]) -> None:
        """Feed and analyse a new lane; one of the same name hands over its visits between two frames."""
        spec, streams = lane.spec, self._configuration.streams
        config, large = stream_configs(spec, streams)
        before, wh = self._lanes.get(spec.subscription_id), None
        if before is not None:
            await asyncio.to_thread(lane.make_ready_as, before)
            self.unschedule(before)
            await before.come_to_rest()
            saved_visits = before.kept_visits(self._clock)
            lane.live_detections, lane.runs = before.live_detections, before.runs
        lane.visits.restore(saved_visits, now_s=self._clock.monotonic_s(), now_utc_s=self._clock.utc_s())
        if before is not None and before.detail is not None:
            if stream_configs(before.spec, streams)[1] == large:
                lane.detail = before.detail
            else:
                wh = before.detail.wh
                self._large_streams.forget(spec.camera_id)
                await before.detail.close()
        if large is not None and lane.detail is None:
            lane.detail = DetailStream(
                self._streams, spec.camera_id, large, spec.subscription_id, wh=wh, needs_wh=spec.has_places
            )
        self.schedule(lane)
        await self._streams.create_stream(spec.camera_id, config, spec.subscription_id, deliver=lane.offer)
        if before is not None:
            self._maker.retire(before)

    async def _exchange_archive(self, before: Lane) -> None:
        """Load the archive of a lane anew, and go on with it; DetectorWorkerError: the old one goes on."""
        async with self._changes_of(before.spec.subscription_id):
            if self._lanes.get(before.spec.subscription_id) is before:
                await self._install(await self.load_lane(before.spec, lossless=False), ())

    def _status_of(self, camera_id: str) -> StreamStatus:
        try:
            return self._streams.get_stream_info(camera_id).status
        except KeyError:  # its lane is being started
            return StreamStatus(camera_id, StreamState.CONNECTING)

    def _emit(self, lane: Lane, analysed: Analysed) -> None:
        """Leave the analysis thread, if anything happened that anybody waits for."""
        if lane.detail is not None and len(analysed.detections):
            lane.detail.ask()
        if analysed.events or analysed.live_visits or lane.live_detections:
            self._loop.call_soon_threadsafe(self._take, lane, analysed)
        self._maker.precision.observe(lane.detector, analysed.frame, analysed.detections, lane.spec.crop)

    def _take(self, lane: Lane, analysed: Analysed) -> None:
        frame = analysed.frame
        for event in analysed.events:
            self._runs.take(lane, event)
        for visit in analysed.live_visits:
            self._runs.refresh(lane, visit, frame.captured_at)
        if lane.live_detections:
            sure = analysed.detections.confidence >= lane.pipeline.min_confidence
            detections = tuple(analysed.detections.select(sure).results(frame.captured_at))
            self._owner.on_result(lane.result(frame.frame_id, frame.captured_at, detections))

    async def _tend_details(self) -> None:
        while True:
            details = [lane.detail for lane in self._lanes.values() if lane.detail is not None]
            for outcome in await asyncio.gather(*(one.tend() for one in details), return_exceptions=True):
                if isinstance(outcome, Exception):  # one camera's boundary
                    _log.error("A large stream could not be opened or closed: %r", outcome)
            await asyncio.sleep(_TEND_EVERY_S)

    async def _tend_precision(self) -> None:
        while True:
            await asyncio.sleep(_TEND_PRECISION_EVERY_S)
            await self._maker.precision.tend(self._clock.monotonic_s())

    async def _report_loop(self) -> None:
        while True:
            reports, memory = [], dict[str, int]()
            for lane in tuple(self._lanes.values()):
                try:
                    info = self._streams.get_stream_info(lane.spec.camera_id)
                except KeyError:  # its stream is about to be opened, or it is fed from a file
                    continue
                report = lane.report(errors=info.error_count, reconnects=info.reconnects, damaged=info.damaged)
                reports.append(report)
                memory |= {model_id: model.shared.memory_bytes for model_id, model in lane.loaded.models.items()}
            busy_s = self._scheduler.busy_s(self._clock.monotonic_s())
            cache, stuck = self._models.manager.get_cache_stats(), self._streams.stuck_threads
            self._owner.on_report(GroupReport(tuple(reports), memory, cache, stuck, busy_s))
            await asyncio.sleep(_REPORT_EVERY_S)
