"""What the engine reports of itself into the state managers, which all who ask read."""

from collections import Counter
from dataclasses import replace

from detector_worker.core.addresses import Address
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.singleton_managers import (
    CameraConnection,
    CameraStateManager,
    ModelState,
    ModelStateManager,
    PipelineRuns,
    PipelineStateManager,
    ServiceState,
    ServiceStateManager,
    SessionStateManager,
    StreamStateManager,
)
from detector_worker.engine.engine import SubscriptionSpec
from detector_worker.engine.group_owner import GroupReport, LaneReport

__all__ = ["ReadModel"]

_SCHEMES = frozenset({"rtsp", "rtsps", "http", "https"})


class ReadModel:
    """The state managers that an engine writes to. Used on one event loop."""

    def __init__(
        self,
        *,
        streams: StreamStateManager,
        cameras: CameraStateManager,
        models: ModelStateManager,
        pipelines: PipelineStateManager,
        sessions: SessionStateManager,
        services: ServiceStateManager,
    ) -> None:
        self._streams, self._cameras, self._models, self._pipelines = streams, cameras, models, pipelines
        self.sessions, self.services = sessions, services
        self._memory_by_group: dict[str, dict[str, int]] = {}

    def add_subscription(self, spec: SubscriptionSpec, group: str) -> None:
        """A subscription is there, with its camera in whatever state it is."""
        status = self._streams.get(spec.camera_id)
        connection = CameraConnection(
            subscription_id=spec.subscription_id,
            camera_id=spec.camera_id,
            url=str(Address.parse(spec.url, _SCHEMES)),
            state=status.state if status else StreamState.CONNECTING,
            error_class=status.error_class if status else None,
            warnings=status.warnings if status else (),
            model_id=spec.model_id,
            model_name=spec.model_name,
            crop=spec.crop,
            group=group,
        )
        self._cameras.set(spec.subscription_id, connection)

    def remove_subscription(self, spec: SubscriptionSpec) -> None:
        """A subscription has ended; its camera is forgotten with the last one."""
        self._cameras.remove(spec.subscription_id)
        self._pipelines.remove(spec.subscription_id)
        if not self._watching(spec.camera_id):
            self._streams.remove(spec.camera_id)

    def set_stream_status(self, status: StreamStatus) -> tuple[str, ...]:
        """A camera's connection has changed; return the ids of the subscriptions that watch it."""
        watching = self._watching(status.camera_id)
        if watching:
            self._streams.set(status.camera_id, status)
        for camera in watching:
            changed = replace(camera, state=status.state, error_class=status.error_class, warnings=status.warnings)
            self._cameras.set(camera.subscription_id, changed)
        return tuple(camera.subscription_id for camera in watching)

    def group_down(self, name: str, reason: str) -> None:
        """A group's process has ended."""
        self.services.set(name, ServiceState("down", detail=reason))
        self._set_models(name, {})

    def take_report(self, name: str, report: GroupReport) -> None:
        """Take a group's figures."""
        state = self.services.get(name)
        if state is not None:
            stuck, cache = report.stuck_threads, report.model_cache
            self.services.set(name, replace(state, state="ok", stuck_threads=stuck, model_cache=cache))
        self._set_models(name, report.memory_by_model)
        for lane in report.lanes:
            self._take_lane(lane)

    def _watching(self, camera_id: str) -> list[CameraConnection]:
        return [camera for camera in self._cameras.snapshot().values() if camera.camera_id == camera_id]

    def _take_lane(self, lane: LaneReport) -> None:
        camera = self._cameras.get(lane.subscription_id)
        if camera is None:
            return
        p50_ms, p95_ms = lane.latency_ms or (None, None)
        figures = replace(
            camera,
            fps_in=lane.fps_in,
            fps_analysed=lane.fps_analysed,
            fps_dropped=lane.fps_dropped,
            fps_still=lane.fps_still,
            latency_p50_ms=p50_ms,
            latency_p95_ms=p95_ms,
            errors=lane.errors,
            reconnects=lane.reconnects,
            damaged=lane.damaged,
        )
        self._cameras.set(lane.subscription_id, figures)
        self._pipelines.set(lane.subscription_id, PipelineRuns(*lane.runs))

    def _set_models(self, group: str, memory_by_model: dict[str, int]) -> None:
        """One model in two groups takes memory twice."""
        before = self._memory_by_group.get(group, {})
        self._memory_by_group[group] = memory_by_model
        memory: Counter[str] = sum((Counter(one) for one in self._memory_by_group.values()), Counter())
        for model_id in before.keys() - memory.keys():
            self._models.remove(model_id)
        for model_id, memory_bytes in memory.items():
            self._models.set(model_id, ModelState("ready", memory_bytes))
