"""A group: cameras with their readers, lanes, threads, models and runs; the unit of failure and of scaling.

`LocalEngine` runs groups as child processes; `run` and tests use the same object in their own process.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, assert_never

import cv2
import uuid_utils

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.clock import SystemClock
from detector_worker.core.config import Configuration
from detector_worker.core.entities import Visit, VisitEnded, VisitEvent, VisitStarted
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.core.outbox import Outbox
from detector_worker.core.settings import MIB
from detector_worker.detection.visits import VisitTracker
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.engine.engine import LaneResult, SessionId, SubscriptionSpec
from detector_worker.engine.lane import Analysed, Lane
from detector_worker.engine.messages import GroupEvent, GroupReport, LaneReport, ModelReport, StartLane
from detector_worker.engine.runs import LiveLane, VisitRuns, saved_visit
from detector_worker.engine.scheduler import Scheduler
from detector_worker.models.archive import ArchiveLimits
from detector_worker.models.model_manager import ModelManager
from detector_worker.models.openvino_runtime import OpenVINORuntime
from detector_worker.models.pipeline_config import PipelineConfig
from detector_worker.models.pipeline_loader import PipelineLoader
from detector_worker.pipeline.action_executor import ActionExecutor
from detector_worker.pipeline.field_mapper import FieldMapper
from detector_worker.pipeline.pipeline_executor import PipelineExecutor
from detector_worker.streams.stream_manager import StreamConfig, StreamManager

__all__ = ["Group"]

_log: Final = logging.getLogger(__name__)
_REPORT_EVERY_S: Final = 1.0


class Group:
    """Owns its analysis threads, readers, models and runs. Used on one event loop."""

    def __init__(
        self, configuration: Configuration, *, outbox: Outbox, tell: Callable[[GroupEvent], None], threads: int
    ) -> None:
        """Wire it.

        Args:
            configuration: All settings; what is needed is handed on value by value.
            outbox: Where entries are accepted and visits kept.
            tell: Takes results, camera states and reports, on the event loop; must not block.
            threads: Analysis threads, each with one inference request.
        """
        self._configuration, self._outbox, self._tell = configuration, outbox, tell
        self._clock = SystemClock()
        self._scheduler = Scheduler(threads=threads)
        self._streams = StreamManager(notify=tell, clock=self._clock)
        self._loader = _pipeline_loader(configuration, threads)
        self._sessions: dict[str, SessionId] = {}
        self._lanes: dict[str, LiveLane] = {}
        self._runs = VisitRuns(
            outbox=outbox,
            max_at_once=configuration.engine.max_concurrent_runs,
            sessions=self._sessions,
            tell=tell,
        )

    async def start(self) -> None:
        """Start the analysis threads and the reports."""
        self._loop = asyncio.get_running_loop()
        self._scheduler.start()
        self._reporting = asyncio.create_task(self._report_loop(), name="group-reports")

    async def stop(self, *, grace_s: float) -> list[str]:
        """Stop reading, finish the runs under way; return the names of what did not stop in time."""
        self._reporting.cancel()
        await self._streams.stop_all_streams()
        for live in self._lanes.values():
            self._scheduler.remove(live.lane)
            live.lane.close()
        left = await self._runs.finish(timeout_s=grace_s)
        return left + await asyncio.to_thread(self._scheduler.stop)

    async def start_lane(self, command: StartLane) -> None:
        """Analyse a camera for a subscription; one of the same name is replaced once the new one is ready.

        Raises:
            DetectorWorkerError: The archive or the address was refused; an old lane goes on.
        """
        spec = command.spec
        live = await self.load_lane(spec, lossless=False)
        live.live_detections = command.live_detections
        if command.session_id is not None:
            self._sessions[spec.display_id] = command.session_id
        live.lane.restore(command.saved_visits, self._clock)
        await self.stop_lane(spec.subscription_id)
        self._lanes[spec.subscription_id] = live
        self._scheduler.add(live.lane)
        await self._streams.create_stream(
            spec.camera_id, self._stream_config(spec), spec.subscription_id, deliver=live.lane.offer
        )

    async def stop_lane(self, subscription_id: str) -> None:
        """End a lane; its runs under way are finished. Nothing happens where there is none."""
        live = self._lanes.pop(subscription_id, None)
        if live is None:
            return
        await self._streams.remove_stream(subscription_id)
        self._scheduler.remove(live.lane)
        live.lane.close()
        live.loaded.close()

    async def set_session(self, display_id: str, session_id: SessionId | None) -> None:
        """Set or end the session of a display."""
        if session_id is None:
            self._sessions.pop(display_id, None)
        else:
            self._sessions[display_id] = session_id

    def set_live_detections(self, subscription_id: str, *, wanted: bool) -> None:
        """Tell each analysed frame of a subscription, or no longer."""
        if (live := self._lanes.get(subscription_id)) is not None:
            live.live_detections = wanted

    async def newest_jpeg(self, camera_id: str) -> bytes:
        """Return a camera's newest frame as JPEG.

        Raises:
            StreamError: There is no frame yet, and why.
        """
        frame = self._streams.get_latest_frame(camera_id)
        if frame is None:
            status = self._streams.get_stream_info(camera_id).status
            raise StreamError(
                f"No frame yet: {status.reason or status.state}",
                where=f"camera {camera_id}",
                mend="Wait a moment, or look at the camera's address and state.",
            )
        return await asyncio.to_thread(_jpeg, frame)

    async def load_lane(
        self, spec: SubscriptionSpec, *, lossless: bool, observe: Callable[[Analysed], None] | None = None
    ) -> LiveLane:
        """Load an archive and make a lane of it, which nobody feeds or schedules yet.

        Args:
            spec: What to analyse, and with which archive.
            lossless: For files: no frame is passed over but those that the archive's own rate leaves out.
            observe: Takes every analysed frame, in the analysis thread.

        Raises:
            DetectorWorkerError: The archive cannot be used.
        """
        loaded = await self._loader.load_from_url(spec.model_url)
        pipeline = loaded.config
        for warning in loaded.warnings:
            _log.warning("%s: %s", spec.model_url, warning)
        detectors = {model_id: YOLODetector(model) for model_id, model in loaded.models.items()}
        actions = ActionExecutor(
            outbox=self._outbox,
            mapper=FieldMapper(),
            run_blocking=asyncio.to_thread,
            clock=self._clock,
            tables=pipeline.tables,
        )
        await actions.declare_tables()
        executor = PipelineExecutor(actions=actions, detectors=detectors, run_inference=self._scheduler.run)
        rate = spec.target_fps or pipeline.target_fps
        lane = Lane(
            spec,
            pipeline,
            detector=detectors[pipeline.model_id],
            visits=_visit_tracker(spec, pipeline),
            target_fps=rate or (None if lossless else self._configuration.streams.target_fps),
            lossless=lossless,
            wake=self._scheduler.wake,
            emit=partial(self._emit, observe),
        )
        return LiveLane(lane, loaded, executor)

    def schedule(self, live: LiveLane) -> None:
        """Analyse what is offered to a lane from now on."""
        self._lanes[live.lane.spec.subscription_id] = live
        self._scheduler.add(live.lane)

    def unschedule(self, live: LiveLane) -> None:
        """Analyse nothing further of a lane."""
        self._scheduler.remove(live.lane)
        live.lane.close()

    async def finish_visits(self, live: LiveLane, time_s: float) -> list[Visit]:
        """End all visits of an unscheduled lane, wait for every run, and return them; as at the end of a file."""
        events = live.lane.finish(time_s)
        self._take_events(live, events)
        await self._runs.finish(timeout_s=None)
        return [event.visit for event in events if isinstance(event, VisitEnded)]

    def _emit(self, observe: Callable[[Analysed], None] | None, lane: Lane, analysed: Analysed) -> None:
        """Leave the analysis thread, if anything happened that anybody waits for."""
        if observe is not None:
            observe(analysed)
        live = self._lanes.get(lane.spec.subscription_id)
        if live is None or live.lane is not lane:
            return
        if analysed.events or analysed.live_visits or live.live_detections:
            self._loop.call_soon_threadsafe(self._take, live, analysed)

    def _take(self, live: LiveLane, analysed: Analysed) -> None:
        self._take_events(live, analysed.events)
        for visit in analysed.live_visits:
            self._runs.refresh(saved_visit(live.lane, visit, analysed.frame.captured_at))
        if live.live_detections:
            self._tell(_live_result(live, analysed))

    def _take_events(self, live: LiveLane, events: Sequence[VisitEvent]) -> None:
        for event in events:
            match event:
                case VisitStarted():
                    self._runs.begin(live, event)
                case VisitEnded(visit):
                    self._runs.forget(visit.record_id)
                case _:
                    assert_never(event)

    async def _report_loop(self) -> None:
        while True:
            lives = tuple(self._lanes.values())
            memory = {id_: model.shared.memory_bytes for live in lives for id_, model in live.loaded.models.items()}
            models = tuple(ModelReport(model_id, memory_bytes) for model_id, memory_bytes in memory.items())
            self._tell(GroupReport(tuple(self._report(live) for live in lives), models))
            await asyncio.sleep(_REPORT_EVERY_S)

    def _report(self, live: LiveLane) -> LaneReport:
        info = self._streams.get_stream_info(live.lane.spec.camera_id)
        runs = live.runs["completed"], live.runs["partial"], live.runs["failed"]
        return live.lane.report(errors=info.error_count, reconnects=info.reconnects, runs=runs)

    def _stream_config(self, spec: SubscriptionSpec) -> StreamConfig:
        streams = self._configuration.streams
        return StreamConfig(
            stream_url=spec.rtsp_url or spec.snapshot_url or "",
            stream_type="rtsp" if spec.rtsp_url else "http_snapshot",
            target_fps=spec.target_fps or streams.target_fps,
            reconnect_interval=streams.reconnect_interval,
            max_retries=streams.max_retries,
            snapshot_interval_s=spec.snapshot_interval_s,
            transport=spec.options.transport or streams.transport,
        )


def _pipeline_loader(configuration: Configuration, threads: int) -> PipelineLoader:
    models, pipelines = configuration.models, configuration.pipelines
    manager = ModelManager(
        OpenVINORuntime(threads=threads, requests=threads), memory_budget_bytes=models.memory_budget_mb * MIB
    )
    return PipelineLoader(
        manager,
        configuration.server.data_dir / "archives",
        limits=ArchiveLimits(archive_bytes=pipelines.max_archive_bytes),
        allowed_paths=pipelines.allowed_paths,
        network_policy=NetworkPolicy(pipelines.allowed_networks),
        download_timeout_s=pipelines.download_timeout_seconds,
    )


def _visit_tracker(spec: SubscriptionSpec, pipeline: PipelineConfig) -> VisitTracker:
    return VisitTracker(
        camera_id=spec.camera_id,
        min_confidence=pipeline.min_confidence,
        stability=pipeline.stability,
        tracking=pipeline.tracking,
        expected_classes=pipeline.expected_classes,
        required_classes=pipeline.required_classes,
        trigger_classes=pipeline.trigger_classes,
        new_record_id=lambda: str(uuid_utils.uuid7()),
    )


def _live_result(live: LiveLane, analysed: Analysed) -> LaneResult:
    spec, frame = live.lane.spec, analysed.frame
    return LaneResult(
        subscription_id=spec.subscription_id,
        camera_id=spec.camera_id,
        frame_id=frame.frame_id,
        captured_at=frame.captured_at,
        detections=tuple(analysed.detections.results(frame.captured_at)),
        final=False,
        model_id=spec.model_id,
        model_name=spec.model_name,
        pipeline_id=live.lane.pipeline.model_id,
    )


def _jpeg(frame: Frame) -> bytes:
    _, encoded = cv2.imencode(".jpg", frame.bgr(), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return encoded.tobytes()
