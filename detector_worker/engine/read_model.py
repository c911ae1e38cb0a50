"""What the engine reports of itself into the state managers, which all who ask read."""

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
from detector_worker.engine.engine import SessionId, SubscriptionSpec
from detector_worker.engine.messages import GroupReport, LaneReport, ModelReport

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
        self._streams, self._cameras, self._models = streams, cameras, models
        self._pipelines, self._sessions, self._services = pipelines, sessions, services
        self._models_by_group: dict[str, tuple[ModelReport, ...]] = {}

    def add_subscription(self, spec: SubscriptionSpec, group: str) -> None:
        """A subscription is there, with its camera in whatever state it is."""
        status = self._streams.get(spec.camera_id)
        url = spec.rtsp_url or spec.snapshot_url
        self._cameras.set(
            spec.subscription_id,
            CameraConnection(
                subscription_id=spec.subscription_id,
                camera_id=spec.camera_id,
                url=str(Address.parse(url, _SCHEMES)) if url else "",
                state=status.state if status else StreamState.CONNECTING,
                model_id=spec.model_id,
                model_name=spec.model_name,
                crop=spec.crop,
                group=group,
            ),
        )

    def remove_subscription(self, spec: SubscriptionSpec) -> None:
        """A subscription has ended; its camera is forgotten with the last one."""
        self._cameras.remove(spec.subscription_id)
        self._pipelines.remove(spec.subscription_id)
        if not any(one.camera_id == spec.camera_id for one in self._cameras.snapshot().values()):
            self._streams.remove(spec.camera_id)

    def set_stream_status(self, status: StreamStatus) -> None:
        """A camera's connection has changed."""
        subscriptions = [one for one in self._cameras.snapshot().values() if one.camera_id == status.camera_id]
        if not subscriptions:
            return
        self._streams.set(status.camera_id, status)
        for camera in subscriptions:
            self._cameras.set(camera.subscription_id, replace(camera, state=status.state))

    def set_session(self, display_id: str, session_id: SessionId | None) -> None:
        """A display's session was set, or ended."""
        if session_id is None:
            self._sessions.remove(display_id)
        else:
            self._sessions.set(display_id, session_id)

    def group_starts(self, name: str, pid: int) -> None:
        """A group's process has been started."""
        self._services.set(name, ServiceState("starting", pid=pid))

    def group_down(self, name: str, reason: str) -> None:
        """A group's process has ended."""
        self._services.set(name, ServiceState("down", detail=reason))
        self._set_models(name, ())

    def take_report(self, name: str, report: GroupReport) -> None:
        """Take a group's figures."""
        state = self._services.get(name)
        if state is not None and state.state != "ok":
            self._services.set(name, replace(state, state="ok"))
        self._set_models(name, report.models)
        for lane in report.lanes:
            self._take_lane(lane)

    def _take_lane(self, lane: LaneReport) -> None:
        camera = self._cameras.get(lane.subscription_id)
        if camera is None:
            return
        p50_ms, p95_ms = lane.latency_ms or (None, None)
        self._cameras.set(
            lane.subscription_id,
            replace(
                camera,
                fps_in=lane.fps_in,
                fps_analysed=lane.fps_analysed,
                fps_dropped=lane.fps_dropped,
                latency_p50_ms=p50_ms,
                latency_p95_ms=p95_ms,
                errors=lane.errors,
                reconnects=lane.reconnects,
            ),
        )
        self._pipelines.set(
            lane.subscription_id,
            PipelineRuns(lane.runs_under_way, lane.runs_completed, lane.runs_partial, lane.runs_failed),
        )

    def _set_models(self, group: str, models: tuple[ModelReport, ...]) -> None:
        """One model in two groups takes memory twice."""
        before = {model.model_id for model in self._models_by_group.get(group, ())}
        self._models_by_group[group] = models
        memory: dict[str, int] = {}
        for model in (one for of_group in self._models_by_group.values() for one in of_group):
            memory[model.model_id] = memory.get(model.model_id, 0) + model.memory_bytes
        for model_id, memory_bytes in memory.items():
            self._models.set(model_id, ModelState("ready", memory_bytes))
        for model_id in before - memory.keys():
            self._models.remove(model_id)
