"""The control protocol's socket: lets clients in, carries their requests, and tells them what was seen."""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from detector_worker.communication.access import AccessPolicy, RateLimit, Refusal
from detector_worker.communication.connections import ConnectionClosedError, ConnectionManager, WebSocketConnection
from detector_worker.communication.message_processor import MessageProcessor
from detector_worker.communication.reports import StateReporter, image_detection, stream_status
from detector_worker.communication.requests import refused
from detector_worker.core.entities import PipelineResult, StreamStatus
from detector_worker.core.exceptions import DetectorWorkerError, MessageProcessingError
from detector_worker.core.wire_messages import ErrorCode, Reply
from detector_worker.engine.engine import Engine, LaneResult
from detector_worker.storage.sessions import Sessions

__all__ = ["ConnectionLimits", "ConnectionManager", "WebSocketConnection", "WebSocketHandler"]

logger = logging.getLogger(__name__)

_MAX_RESULTS_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one client, or all of them, may take."""

    max_connections: int = 1000
    messages_per_second: float = 50.0
    queue_size: int = 256
    """Messages that may wait for one client."""
    send_timeout_s: float = 10.0


class WebSocketHandler:
    """Serves every client; is the engine's `EngineEvents`. Lives on the event loop.

    `run` owns the heartbeat and the dispatch of results, `handle_websocket` the two tasks of one client.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        access: AccessPolicy,
        connections: ConnectionManager,
        processor: MessageProcessor,
        reporter: StateReporter,
        sessions: Sessions,
        next_sequence: Callable[[str], Awaitable[int]],
        heartbeat_interval_s: float = 5.0,
        limits: ConnectionLimits | None = None,
    ) -> None:
        """Join the parts; ``next_sequence`` counts a subscription's final results, also over restarts."""
        self._engine, self._access, self._connections = engine, access, connections
        self._processor, self._reporter, self._next_sequence = processor, reporter, next_sequence
        self._sessions = sessions
        self._heartbeat_interval_s = heartbeat_interval_s
        self._limits = limits or ConnectionLimits()
        self._results: deque[LaneResult] = deque()
        self._results_there = asyncio.Event()
        self._shutting_down = False
        self._requests_under_way = 0
        self._no_request_under_way = asyncio.Event()
        self._no_request_under_way.set()
        self._nobody_there = asyncio.Event()
        self._nobody_there.set()

    async def run(self) -> None:
        """Send heartbeats and results until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._heartbeat_loop(), name="heartbeat")
            group.create_task(self._dispatch_loop(), name="result dispatch")

    async def shut_down(self, *, grace_s: float = 2.0) -> None:
        """Let nobody in any more, answer what is under way, then close everybody (1001); takes at most ``grace_s``.

        Call it before the web server is told to stop, which would cut the sockets instead.
        """
        self._shutting_down = True
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s / 2):
                await self._no_request_under_way.wait()
        for connection in self._connections:
            connection.close(1001, "The worker is shutting down.")
        try:
            async with asyncio.timeout(grace_s / 2):
                await self._nobody_there.wait()
        except TimeoutError:
            logger.warning("%d clients did not take their leave", len(self._connections))

    async def handle_websocket(self, websocket: WebSocket) -> None:
        """Serve one client from its first byte to its last."""
        refusal = self._refusal(websocket)
        if refusal is not None:
            await websocket.send_denial_response(
                JSONResponse({"error": refusal.reason}, refusal.status, refusal.headers)
            )
            return
        connection = WebSocketConnection(
            websocket,
            client_id=uuid.uuid4().hex,
            queue_size=self._limits.queue_size,
            send_timeout_s=self._limits.send_timeout_s,
        )
        await connection.accept()
        self._connections.add_connection(connection)
        self._nobody_there.clear()
        try:
            async with asyncio.TaskGroup() as group:
                sender = group.create_task(connection.run_sender(), name=f"sender {connection.client_id}")
                await self._receive_loop(connection)
                sender.cancel()
        except* ConnectionClosedError:
            logger.debug("Client %s was closed", connection.client_id)
        finally:
            await self._take_leave(connection)

    async def broadcast_detection_result(self, result: LaneResult) -> None:
        """Tell a subscription's watchers of a frame, or of a finished run under its next number."""
        if not result.final:
            self._broadcast_frame(result)
            return
        await self._note_result(result)
        sequence: int | None = None
        try:
            sequence = await self._next_sequence(result.subscription_id)
        except DetectorWorkerError as exc:
            logger.error("A result of %s goes out without its number: %s", result.subscription_id, exc)  # noqa: TRY400 - what, where and mend say it all
        text = image_detection(result, sequence=sequence).to_wire()
        self._connections.broadcast_to_subscription(result.subscription_id, text)

    def on_result(self, result: LaneResult) -> None:
        """Take a result over from the engine; finished runs wait here, bounded, for their numbers."""
        if not result.final:
            self._broadcast_frame(result)
        elif len(self._results) >= _MAX_RESULTS_WAITING:
            logger.error("A result of %s is not told: %d wait already", result.subscription_id, len(self._results))
        else:
            self._results.append(result)
            self._results_there.set()

    def on_stream_status(self, subscription_ids: tuple[str, ...], status: StreamStatus) -> None:
        """Tell the watchers of a camera that its connection changed."""
        for subscription_id in subscription_ids:
            text = stream_status(subscription_id, status).to_wire()
            self._connections.broadcast_to_subscription(subscription_id, text)

    async def _note_result(self, result: LaneResult) -> None:
        if result.record_id is not None and result.session_id is not None:
            outcome = PipelineResult(result.status, result.detections, result.branches, result.fields)
            try:
                await self._sessions.note_result(result.session_id, result.record_id, outcome)
            except DetectorWorkerError as exc:
                logger.warning("Session %s does not know of a result: %s", result.session_id, exc)

    def _broadcast_frame(self, result: LaneResult) -> None:
        if self._connections.has_live_watchers(result.subscription_id):
            text = image_detection(result, sequence=None).to_wire()
            replaces = ("frame", result.subscription_id)
            self._connections.broadcast_to_subscription(result.subscription_id, text, live=True, replaces=replaces)

    async def _receive_loop(self, connection: WebSocketConnection) -> None:
        limit = RateLimit(per_second=self._limits.messages_per_second)
        while (message := await connection.receive_message()) is not None:
            refusal = self._message_refusal(limit)
            with self._counted_request():
                await self._processor.process_message(connection, message, refusal=refusal)

    @contextmanager
    def _counted_request(self) -> Iterator[None]:
        self._requests_under_way += 1
        self._no_request_under_way.clear()
        try:
            yield
        finally:
            self._requests_under_way -= 1
            if not self._requests_under_way:
                self._no_request_under_way.set()

    async def _dispatch_loop(self) -> None:
        while True:
            await self._results_there.wait()
            self._results_there.clear()
            results = sorted(self._results, key=attrgetter("subscription_id"))  # stable: each one's order is kept
            self._results.clear()
            async with asyncio.TaskGroup() as group:
                for _, of_one in groupby(results, key=attrgetter("subscription_id")):
                    group.create_task(self._broadcast_in_order(tuple(of_one)))

    async def _broadcast_in_order(self, results: Sequence[LaneResult]) -> None:
        for result in results:
            try:
                await self.broadcast_detection_result(result)
            except Exception:  # one subscription's boundary
                logger.exception("A result of %s could not be told", result.subscription_id)

    async def _heartbeat_loop(self) -> None:
        while True:
            try:
                await self._reporter.refresh()
                self._cleanup_connections()
                report = Reply(type="stateReport", status="success", payload=self._reporter.collect_system_state())
                self._connections.broadcast(report.to_wire(), replaces="stateReport")
            except Exception:  # the heart goes on beating
                logger.exception("A state report could not be made")
            await asyncio.sleep(self._heartbeat_interval_s)

    def _cleanup_connections(self) -> None:
        """Stop sending to those whose socket is dead; their own tasks take leave of them."""
        for connection in self._connections:
            if not connection.ping():
                self._connections.remove_connection(connection)

    async def _take_leave(self, connection: WebSocketConnection) -> None:
        self._connections.remove_connection(connection)
        try:
            await self._engine.cleanup_client_streams(connection.client_id)
        except DetectorWorkerError as exc:
            self._handle_connection_error(connection, exc)
        if not len(self._connections):
            self._nobody_there.set()

    def _handle_connection_error(self, connection: WebSocketConnection, error: DetectorWorkerError) -> None:
        logger.error("Client %s left, but its subscriptions could not be released: %s", connection.client_id, error)

    def _refusal(self, websocket: WebSocket) -> Refusal | None:
        if self._shutting_down:
            return Refusal(503, "The worker is shutting down.")
        if len(self._connections) >= self._limits.max_connections:
            return Refusal(503, "As many clients are connected as access.max_connections permits.")
        return self._access.refusal(websocket)

    def _message_refusal(self, limit: RateLimit) -> MessageProcessingError | None:
        if self._shutting_down:
            return refused("The worker is shutting down", "Connect again in a moment.", ErrorCode.SHUTTING_DOWN)
        if not limit.allows(time.monotonic()):
            mend = "Send fewer, or raise access.max_messages_per_second."
            return refused("Too many messages", mend, ErrorCode.RATE_LIMITED)
        return None
