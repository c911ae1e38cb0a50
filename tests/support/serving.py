"""A real web server around the communication room, with an engine in memory behind it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI
from pydantic import SecretStr
from support.sessions import new_sessions
from support.waiting import wait_until
from websockets.asyncio.client import ClientConnection

from detector_worker.communication.access import AccessPolicy
from detector_worker.communication.connections import ConnectionManager
from detector_worker.communication.http_routes import http_router
from detector_worker.communication.message_processor import MessageProcessor
from detector_worker.communication.metrics import Metrics
from detector_worker.communication.reports import StateReporter
from detector_worker.communication.server import WorkerServer, open_listener
from detector_worker.communication.session_routes import session_router
from detector_worker.communication.websocket_handler import ConnectionLimits, WebSocketHandler
from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.entities import BoundingBox, DetectionResult
from detector_worker.core.exceptions import MessageProcessingError, StreamError
from detector_worker.core.singleton_managers import (
    CacheStateManager,
    CameraStateManager,
    ModelStateManager,
    PipelineStateManager,
    ServiceState,
    ServiceStateManager,
    StreamStateManager,
)
from detector_worker.engine.engine import LaneResult, SessionId, SubscriptionSpec
from detector_worker.storage.sessions import Sessions
from detector_worker.storage.spool.spool import Spool
from detector_worker.utils.monitoring import SystemMonitor


@dataclass
class MemoryEngine:
    """Keeps what it was asked for; `fail_with` is raised by the next subscribe."""

    held: dict[tuple[str, str], tuple[SubscriptionSpec, bool]] = field(default_factory=dict)
    sessions: dict[str, SessionId | None] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    somebody_left: asyncio.Event = field(default_factory=asyncio.Event)
    pictures: dict[str, bytes | Exception | None] = field(default_factory=dict)
    reconnected: list[str] = field(default_factory=list)
    annotated: dict[str, bytes | Exception | None] = field(default_factory=dict)
    """As ``pictures``, of analysed frames."""
    asked: int = 0
    fail_with: Exception | None = None
    waiting: asyncio.Event | None = None
    """Where set, subscribe waits for it."""

    async def subscribe(self, client_id: str, spec: SubscriptionSpec, *, live_detections: bool = False) -> None:
        self.asked += 1
        if self.waiting is not None:
            await self.waiting.wait()
        if self.fail_with is not None:
            error, self.fail_with = self.fail_with, None
            raise error
        self.held[client_id, spec.subscription_id] = spec, live_detections

    async def unsubscribe(self, client_id: str, subscription_id: str) -> None:
        if (client_id, subscription_id) not in self.held:
            raise MessageProcessingError("Not held", where=subscription_id, mend="Subscribe.", code="not_found")
        del self.held[client_id, subscription_id]

    async def cleanup_client_streams(self, client_id: str) -> None:
        self.left.append(client_id)
        self.somebody_left.set()

    async def set_session(self, display_id: str, session_id: SessionId | None) -> None:
        self.sessions[display_id] = session_id

    async def reconnect(self, camera_id: str) -> None:
        if camera_id not in self.pictures:
            raise MessageProcessingError("No such camera", where=camera_id, mend="Subscribe.", code="not_found")
        self.reconnected.append(camera_id)

    async def newest_jpeg(self, camera_id: str, *, annotated: bool = False) -> bytes:
        pictures = self.annotated if annotated else self.pictures
        if camera_id not in pictures:
            raise MessageProcessingError("No such camera", where=camera_id, mend="Subscribe.", code="not_found")
        picture = pictures[camera_id]
        if picture is None:
            raise StreamError("No frame yet", where=camera_id, mend="Wait.")
        if isinstance(picture, Exception):
            raise picture
        return picture


@dataclass
class Worker:
    """The running room."""

    engine: MemoryEngine
    handler: WebSocketHandler
    connections: ConnectionManager
    cameras: CameraStateManager
    models: ModelStateManager
    queues: CacheStateManager
    services: ServiceStateManager
    streams: StreamStateManager
    reporter: StateReporter
    sessions: Sessions
    app: FastAPI
    port: int = 0

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Settings:
    """What a test may want otherwise."""

    tokens: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    heartbeat_interval_s: float = 3600.0
    max_subscriptions: int = 100
    limits: ConnectionLimits = field(default_factory=lambda: ConnectionLimits(messages_per_second=10_000))
    next_sequence: Callable[[str], Any] | None = None
    spool: Spool | None = None
    """A started one; without it there are no sessions, and whoever wants one is refused."""


def counting() -> Callable[[str], Any]:
    """Count each subscription's results from 1, as the spool does."""
    numbers: dict[str, int] = {}

    async def next_sequence(subscription_id: str) -> int:
        await asyncio.sleep(0)
        numbers[subscription_id] = numbers.get(subscription_id, 0) + 1
        return numbers[subscription_id]

    return next_sequence


def build(settings: Settings) -> Worker:
    engine, connections = MemoryEngine(), ConnectionManager()
    cameras, models, queues = CameraStateManager(), ModelStateManager(), CacheStateManager()
    services, streams, pipelines = ServiceStateManager(), StreamStateManager(), PipelineStateManager()
    services.set("group-0", ServiceState("ok", pid=4711))
    reporter = StateReporter(
        cameras=cameras,
        models=models,
        queues=queues,
        pipelines=pipelines,
        services=services,
        monitor=SystemMonitor(disk=Path(__file__).parent),
        connections=connections,
    )
    sessions = new_sessions(settings.spool or Spool(Path("never started")))
    access = AccessPolicy(tokens=[SecretStr(token) for token in settings.tokens], origins=settings.origins)
    processor = MessageProcessor(
        engine=engine,
        sessions=sessions,
        connections=connections,
        streams=streams,
        collect_system_state=reporter.collect_system_state,
        camera_policy=NetworkPolicy(),
        archive_policy=NetworkPolicy(),
        max_subscriptions=settings.max_subscriptions,
    )
    handler = WebSocketHandler(
        engine=engine,
        access=access,
        connections=connections,
        processor=processor,
        reporter=reporter,
        sessions=sessions,
        next_sequence=settings.next_sequence or counting(),
        heartbeat_interval_s=settings.heartbeat_interval_s,
        limits=settings.limits,
    )
    app = FastAPI()
    metrics = Metrics(
        streams=streams,
        cameras=cameras,
        pipelines=pipelines,
        queues=queues,
        services=services,
        caches=sessions.caches,
    )
    app.include_router(http_router(engine=engine, access=access, reporter=reporter, metrics=metrics))
    app.include_router(session_router(sessions=sessions, access=access))
    app.add_api_websocket_route("/", handler.handle_websocket)
    return Worker(engine, handler, connections, cameras, models, queues, services, streams, reporter, sessions, app)


@asynccontextmanager
async def serving(settings: Settings | None = None) -> AsyncIterator[Worker]:
    """Run the room behind a real server on a free port; gone afterwards."""
    worker = build(settings or Settings())
    listener = open_listener("127.0.0.1", 0)
    worker.port = listener.getsockname()[1]
    server = WorkerServer(worker.app, on_ready=lambda: None, before_stop=worker.handler.shut_down, stop_timeout_s=1)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(worker.handler.run())
        serving_task = group.create_task(server.serve(sockets=[listener]))
        # The first heartbeat has passed once there are figures: no test's client gets it.
        await wait_until(lambda: server.started and worker.reporter.collect_system_state().memory_usage > 0)
        try:
            yield worker
        finally:
            await worker.handler.shut_down(grace_s=0.5)
            server.should_exit = True
            await serving_task
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


async def ask(client: ClientConnection, kind: str, payload: object = None, **extra: object) -> dict[str, Any]:
    """Send one request and return the next message, but for a heartbeat that was under way."""
    await client.send(orjson.dumps({"type": kind, "payload": payload, **extra}).decode())
    message = await hear(client)
    is_heartbeat = message["type"] == "stateReport" and kind != "requestState"
    return await hear(client) if is_heartbeat else message


async def hear(client: ClientConnection) -> dict[str, Any]:
    """Return the next message."""
    async with asyncio.timeout(5):
        message: dict[str, Any] = orjson.loads(await client.recv())
        return message


def subscription(identifier: str = "desk;gate", /, **fields: Any) -> dict[str, object]:
    """A subscribe payload that is right."""
    return {
        "subscriptionIdentifier": identifier,
        "rtspUrl": "rtsp://admin:Kanarienvogel@10.0.0.7/stream",
        "modelUrl": "/archives/front.mpta",
        **fields,
    }


_A_RESULT = LaneResult(
    subscription_id="desk;gate",
    camera_id="gate",
    frame_id=1042,
    captured_at=1769851613.589,
    detections=(DetectionResult("car", 0.93, BoundingBox(10, 20, 210, 180), 7),),
    final=True,
    record_id="0198",
    session_id=17,
    branches={"colour": {"colour": "red", "confidence": 0.9}},
    fields={"car_colour": "red"},
    model_id=102,
    model_name="front",
    pipeline_id="front_v1",
)


def result(**changes: Any) -> LaneResult:
    """A finished run of the subscription ``desk;gate``."""
    return replace(_A_RESULT, **changes)


def error_of(message: dict[str, Any]) -> tuple[str, str | None]:
    """Return code and field of a refusal."""
    assert message["status"] == "error", message
    return message["error"]["code"], message["error"].get("field")
