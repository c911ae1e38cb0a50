"""What clients are told: the engine's results and the read model, in the protocol's words."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from detector_worker import __version__
from detector_worker.communication.connections import ConnectionManager
from detector_worker.core.clock import rfc3339
from detector_worker.core.entities import StreamStatus
from detector_worker.core.singleton_managers import (
    CacheStateManager,
    CameraConnection,
    CameraStateManager,
    ModelStateManager,
    PipelineStateManager,
    ServiceStateManager,
)
from detector_worker.core.wire_messages import (
    CameraConnectionReport,
    Event,
    ImageDetectionPayload,
    QueueReport,
    StateModelReport,
    StateReportPayload,
    StreamStatusPayload,
)
from detector_worker.engine.engine import LaneResult
from detector_worker.utils.monitoring import SystemMonitor

__all__ = ["GROUP_SERVICE", "HealthStatus", "StateReporter", "image_detection", "stream_status"]

HealthStatus = Literal["ok", "degraded", "starting", "failed"]
GROUP_SERVICE = "group-"
"""How the names of those services begin that analyse cameras."""


def image_detection(result: LaneResult, *, sequence: int | None) -> Event:
    """Make the message of an analysed frame or a finished run."""
    told = {name: getattr(result, name) for name in ImageDetectionPayload.model_fields if hasattr(result, name)}
    others = {"sequence": sequence, "timestamp": rfc3339(result.captured_at), "model_info": result}
    payload = ImageDetectionPayload.model_validate(told | others)
    return Event(type="imageDetection", payload=payload)


def stream_status(subscription_id: str, status: StreamStatus) -> Event:
    """Make the message of a change of a camera's connection."""
    retry_in_seconds = None if status.retry_in_s is None else round(status.retry_in_s, 3)
    others = {"subscription_id": subscription_id, "retry_in_seconds": retry_in_seconds}
    payload = StreamStatusPayload.model_validate(asdict(status) | others)
    return Event(type="streamStatus", payload=payload)


class StateReporter:
    """Reads the state holders for state reports and `/health`. Lives on the event loop."""

    def __init__(
        self,
        *,
        cameras: CameraStateManager,
        models: ModelStateManager,
        queues: CacheStateManager,
        pipelines: PipelineStateManager,
        services: ServiceStateManager,
        monitor: SystemMonitor,
        connections: ConnectionManager,
    ) -> None:
        self._cameras, self._models, self._queues, self._pipelines = cameras, models, queues, pipelines
        self._services, self._monitor, self._connections = services, monitor, connections
        self._started_s = time.monotonic()
        self._system: Mapping[str, Any] = {}
        self._gpu: tuple[float, float] | None = None

    async def refresh(self) -> None:
        """Sample the machine, in a thread: reading its figures may block."""
        self._system = await asyncio.to_thread(self._monitor.get_system_metrics)
        self._gpu = await asyncio.to_thread(self._monitor.get_gpu_metrics)

    def collect_system_state(self) -> StateReportPayload:
        """Return the state as it is now; the machine's figures as they were at the last `refresh`."""
        queues = self._queues.snapshot().values()
        return StateReportPayload(
            version=__version__,
            uptime_seconds=round(time.monotonic() - self._started_s, 3),
            cpu_usage=self._system.get("cpu_percent", 0.0),
            memory_usage=self._system.get("memory_percent", 0.0),
            gpu_usage=self._gpu[0] if self._gpu else None,
            gpu_memory_usage=self._gpu[1] if self._gpu else None,
            camera_connections=tuple(_camera(one) for one in self._cameras.snapshot().values()),
            models=tuple(
                StateModelReport(model_id=name, memory_bytes=model.memory_bytes)
                for name, model in self._models.snapshot().items()
                if model.state == "ready"
            ),
            queues=QueueReport(
                records=sum(queue.records for queue in queues),
                images=sum(queue.images for queue in queues),
                dead_letters=sum(queue.dead_letters for queue in queues),
            ),
            clients=len(self._connections),
        )

    def health_status(self) -> HealthStatus:
        """Return the one word: `starting` and `failed` mean that no camera is analysed."""
        services = self._services.snapshot()
        groups = [service for name, service in services.items() if name.startswith(GROUP_SERVICE)]
        if not any(group.state == "ok" for group in groups):
            return "failed" if any(group.state == "down" for group in groups) else "starting"
        all_ok = all(service.state == "ok" for service in services.values())
        return "ok" if all_ok and all(queue.ok for queue in self._queues.snapshot().values()) else "degraded"

    def health(self) -> dict[str, Any]:
        """Return every component's state."""
        return {
            "status": self.health_status(),
            "version": __version__,
            "components": _plain(self._services.snapshot(), ("state", "detail", "pid")),
            "queues": {name: asdict(queue) for name, queue in self._queues.snapshot().items()},
            "spool": asdict(self._queues.spool) if self._queues.spool is not None else None,
            "models": _plain(self._models.snapshot(), ("state", "detail", "memory_bytes")),
            "cameras": _plain(
                self._cameras.snapshot(), ("camera_id", "state", "group", "fps_in", "fps_analysed", "errors")
            ),
            "pipelines": _plain(self._pipelines.snapshot(), ("running", "completed", "partial", "failed")),
            "clients": len(self._connections),
        }


def _plain(values: Mapping[str, object], names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    return {key: {name: getattr(value, name) for name in names} for key, value in values.items()}


def _camera(connection: CameraConnection) -> CameraConnectionReport:
    sides = dict(zip(("crop_x1", "crop_y1", "crop_x2", "crop_y2"), connection.crop or (None,) * 4, strict=True))
    others = {"subscription_identifier": connection.subscription_id, **sides}
    return CameraConnectionReport.model_validate(asdict(connection) | others)
