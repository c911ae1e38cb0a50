"""The main process: its services built once, started in order, stopped in the reverse order."""

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import typer
from fastapi import FastAPI
from starlette.websockets import WebSocket

if sys.platform == "win32":
    uvloop = None
else:
    import uvloop

from detector_worker import __version__
from detector_worker.communication.access import AccessPolicy
from detector_worker.communication.camera_lists import CameraLists
from detector_worker.communication.camera_routes import camera_router
from detector_worker.communication.connections import ConnectionManager
from detector_worker.communication.http_routes import http_router
from detector_worker.communication.message_processor import MessageProcessor
from detector_worker.communication.metrics import Metrics
from detector_worker.communication.reports import StateReporter
from detector_worker.communication.server import WorkerServer, open_listener
from detector_worker.communication.session_routes import session_router
from detector_worker.communication.websocket_handler import ConnectionLimits, WebSocketHandler
from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.config import Configuration
from detector_worker.core.dependency_injection import ServiceContainer
from detector_worker.core.outbox import Sink
from detector_worker.core.singleton_managers import STATE_MANAGERS, ServiceStateManager, StreamStateManager
from detector_worker.engine.camera_streams import camera_policy
from detector_worker.engine.engine import SubscriptionSpec
from detector_worker.engine.local_engine import LocalEngine
from detector_worker.engine.read_model import ReadModel
from detector_worker.engine.site_cameras import SiteCameras
from detector_worker.storage.configured_storage import sessions_for, storage_for
from detector_worker.storage.durable_storage import DurableStorage
from detector_worker.storage.session_cache import SessionCacheManager
from detector_worker.storage.sessions import Sessions
from detector_worker.storage.storage_reports import StorageReports
from detector_worker.utils.logging import setup_logging
from detector_worker.utils.monitoring import SystemMonitor

__all__ = ["create_app", "load_configuration", "main", "network_policies", "sessions_for", "storage_for"]

_log: Final = logging.getLogger(__name__)


def load_configuration(
    path: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None
) -> Configuration:
    """Read the file, over it the environment, over both the command line, and check the whole.

    Raises:
        ConfigurationError: One message with everything that is wrong.
    """
    return Configuration.load(path, overrides=overrides)


def network_policies(configuration: Configuration) -> tuple[NetworkPolicy, NetworkPolicy]:
    """Return where cameras may be, and from where archives may be downloaded."""
    return camera_policy(configuration.streams), NetworkPolicy(configuration.pipelines.allowed_networks)


def main(configuration: Configuration, cameras: Sequence[SubscriptionSpec] = ()) -> None:
    """Serve until SIGINT or SIGTERM, and watch ``cameras`` whether or not a client comes.

    Raises:
        DetectorWorkerError: It could not be started; nothing half-started is left behind.
    """
    listener = open_listener(configuration.server.host, configuration.port)
    app = create_app(configuration)
    handler: WebSocketHandler = app.state.container.resolve(WebSocketHandler)
    app.state.container.resolve(CameraLists).take_file(cameras)

    def tell_ready() -> None:
        host, port = listener.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        typer.echo(
            f"detector-worker {__version__} is ready at ws://{address}/ (data in {configuration.server.data_dir})"
        )

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            await WorkerServer(app, on_ready=tell_ready, before_stop=handler.shut_down).serve([listener])

    with listener, asyncio.Runner(loop_factory=None if uvloop is None else uvloop.new_event_loop) as runner:
        runner.run(serve())


def create_app(configuration: Configuration) -> FastAPI:
    """Build the application; its lifespan starts and stops every service."""
    container = ServiceContainer()
    register_services(container, configuration)
    initialize_singletons(container)
    app = FastAPI(
        title="Detector Worker", version=__version__, lifespan=setup_lifespan(container), docs_url=None, redoc_url=None
    )
    app.state.container = container
    add_websocket_routes(app, container)
    add_http_routes(app, container)
    return app


def register_services(container: ServiceContainer, configuration: Configuration) -> None:
    """Tell the container how each service is made."""
    container.register_singleton(Configuration, lambda: configuration)
    for manager in STATE_MANAGERS:
        container.register_singleton(manager)
    container.register_singleton(SystemMonitor, _new_monitor)
    container.register_singleton(ConnectionManager)
    container.register_singleton(AccessPolicy, _new_access_policy)
    container.register_singleton(DurableStorage, _new_storage)
    container.register_singleton(SessionCacheManager, _new_caches)
    container.register_singleton(Sessions, sessions_for)
    container.register_singleton(StorageReports)
    container.register_singleton(ReadModel)
    container.register_singleton(LocalEngine, _new_engine)
    container.register_singleton(SiteCameras, _new_site_cameras)
    container.register_singleton(CameraLists, _new_camera_lists)
    container.register_singleton(StateReporter)
    container.register_singleton(Metrics)
    container.register_singleton(MessageProcessor, _new_processor)
    container.register_singleton(WebSocketHandler, _new_handler)


def initialize_singletons(container: ServiceContainer) -> None:
    """Make the state managers, before anybody reports to them."""
    for manager in STATE_MANAGERS:
        container.resolve(manager)


def setup_lifespan(container: ServiceContainer) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the application's lifespan."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = await initialize_services(container)
        try:
            yield
        finally:
            await cleanup_services(running)

    return lifespan


def add_websocket_routes(app: FastAPI, container: ServiceContainer) -> None:
    """Add the control protocol at ``/``."""
    handler = container.resolve(WebSocketHandler)

    @app.websocket("/")
    async def control(websocket: WebSocket) -> None:
        await handler.handle_websocket(websocket)


def add_http_routes(app: FastAPI, container: ServiceContainer) -> None:
    """Add pictures, health, metrics, sessions and the site's cameras."""
    engine, access = container.resolve(LocalEngine), container.resolve(AccessPolicy)
    reporter, metrics = container.resolve(StateReporter), container.resolve(Metrics)
    app.include_router(http_router(engine=engine, access=access, reporter=reporter, metrics=metrics))
    lists, site = container.resolve(CameraLists), container.resolve(SiteCameras)
    streams = container.resolve(StreamStateManager)
    app.include_router(camera_router(lists=lists, site=site, streams=streams, access=access))
    app.include_router(session_router(sessions=container.resolve(Sessions), access=access))


async def initialize_services(container: ServiceContainer) -> AsyncExitStack:
    """Start everything in order; what this returns is for `cleanup_services`.

    Raises:
        DetectorWorkerError: Something does not start; what had been started is stopped again.
    """
    configuration = container.resolve(Configuration)
    storage, engine = container.resolve(DurableStorage), container.resolve(LocalEngine)
    handler, sessions = container.resolve(WebSocketHandler), container.resolve(Sessions)
    async with AsyncExitStack() as running:
        await storage.start()
        running.push_async_callback(_stop_storage, storage)
        logs = configuration.logging
        setup_logging(logs.level, folder=configuration.server.data_dir, json_lines=logs.json_lines)
        for warning in configuration.warnings():
            _log.warning("%s", warning)
        _run_beside(running, container.resolve(StorageReports).count(storage.spool), "queue counts")
        await sessions.start(container.resolve(ReadModel).sessions)
        _run_beside(running, sessions.run(), "sessions")
        running.push_async_callback(engine.stop)
        await engine.start(handler)
        _run_beside(running, handler.run(), "handler")
        _run_beside(running, container.resolve(CameraLists).run(), "site cameras")
        gc.freeze()  # what stands now stays: to look it through again and again would hold everybody up
        return running.pop_all()


async def cleanup_services(running: AsyncExitStack) -> None:
    """Stop in the reverse order what `initialize_services` has started."""
    _log.info("Stopping")
    await running.aclose()


def _new_storage(configuration: Configuration, reports: StorageReports) -> DurableStorage:
    return storage_for(configuration, notify_server=reports.note_server, notify_sink=reports.note_sink)


def _new_monitor(configuration: Configuration) -> SystemMonitor:
    return SystemMonitor(disk=configuration.server.data_dir)


def _new_access_policy(configuration: Configuration) -> AccessPolicy:
    return AccessPolicy(tokens=configuration.access.tokens, origins=configuration.access.origins)


def _new_caches(sessions: Sessions) -> SessionCacheManager:
    return sessions.caches


def _new_engine(configuration: Configuration, sessions: Sessions, read_model: ReadModel) -> LocalEngine:
    return LocalEngine(configuration, outbox=sessions, read_model=read_model)


def _new_site_cameras(configuration: Configuration, engine: LocalEngine, services: ServiceStateManager) -> SiteCameras:
    return SiteCameras(engine, services=services, retry_s=configuration.streams.reconnect_interval)


def _new_camera_lists(configuration: Configuration, site: SiteCameras) -> CameraLists:
    camera_policy, archive_policy = network_policies(configuration)
    kept_file = configuration.server.data_dir / "cameras.yaml"
    return CameraLists(site, kept_file=kept_file, camera_policy=camera_policy, archive_policy=archive_policy)


def _new_processor(
    *,
    configuration: Configuration,
    engine: LocalEngine,
    sessions: Sessions,
    connections: ConnectionManager,
    streams: StreamStateManager,
    reporter: StateReporter,
) -> MessageProcessor:
    camera_policy, archive_policy = network_policies(configuration)
    return MessageProcessor(
        engine=engine,
        sessions=sessions,
        connections=connections,
        streams=streams,
        collect_system_state=reporter.collect_system_state,
        camera_policy=camera_policy,
        archive_policy=archive_policy,
        max_subscriptions=configuration.access.max_subscriptions,
    )


def _new_handler(
    *,
    configuration: Configuration,
    engine: LocalEngine,
    access: AccessPolicy,
    connections: ConnectionManager,
    processor: MessageProcessor,
    reporter: StateReporter,
    sessions: Sessions,
    storage: DurableStorage,
) -> WebSocketHandler:
    return WebSocketHandler(
        engine=engine,
        access=access,
        connections=connections,
        processor=processor,
        reporter=reporter,
        sessions=sessions,
        next_sequence=storage.spool.next_sequence,
        heartbeat_interval_s=configuration.server.heartbeat_interval,
        limits=ConnectionLimits(
            max_connections=configuration.access.max_connections,
            messages_per_second=configuration.access.max_messages_per_second,
        ),
    )


async def _stop_storage(storage: DurableStorage) -> None:
    left = await storage.stop()
    if left is not None and left.entries:
        text = "%d entries for PostgreSQL and %d for Redis remain in the spool; they are delivered at the next start"
        _log.warning(text, left.sinks[Sink.POSTGRESQL].entries, left.sinks[Sink.REDIS].entries)


def _run_beside(running: AsyncExitStack, work: Coroutine[Any, Any, None], name: str) -> None:
    task = asyncio.create_task(work, name=name)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    running.push_async_callback(end)
