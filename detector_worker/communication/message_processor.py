"""What a client asks for, done: one request in, exactly one reply out."""

import asyncio
import logging
from collections.abc import Callable
from weakref import WeakValueDictionary

from detector_worker.communication.connections import ConnectionManager, WebSocketConnection
from detector_worker.communication.reports import stream_status
from detector_worker.communication.requests import parse_payload, parse_request, refused, subscription_spec
from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.exceptions import (
    ArchiveDownloadError,
    DetectorWorkerError,
    MessageProcessingError,
    ModelCacheError,
    ModelError,
    PipelineError,
)
from detector_worker.core.singleton_managers import StreamStateManager
from detector_worker.core.wire_messages import (
    ErrorCode,
    ErrorDetail,
    MessageType,
    PatchSessionPayload,
    Reply,
    Request,
    RequestId,
    SessionPayload,
    SetSessionIdPayload,
    StateReportPayload,
    SubscribePayload,
    UnsubscribePayload,
)
from detector_worker.engine.engine import Engine, SessionId
from detector_worker.storage.sessions import Sessions

__all__ = ["MessageProcessor", "MessageType"]

logger = logging.getLogger(__name__)

_MAX_ERROR_LENGTH = 4000
_FAILED = refused("The worker failed at this request", "Its log says why.", ErrorCode.INTERNAL)


class MessageProcessor:
    """Turns requests into calls of the engine. One for all clients; keeps nothing of its own."""

    def __init__(
        self,
        *,
        engine: Engine,
        sessions: Sessions,
        connections: ConnectionManager,
        streams: StreamStateManager,
        collect_system_state: Callable[[], StateReportPayload],
        camera_policy: NetworkPolicy,
        archive_policy: NetworkPolicy,
        max_subscriptions: int,
    ) -> None:
        """Join the parts; the policies say where cameras may be, and from where archives may be downloaded."""
        self._engine, self._sessions, self._connections = engine, sessions, connections
        self._streams, self._collect_system_state = streams, collect_system_state
        self._camera_policy, self._archive_policy = camera_policy, archive_policy
        self._max_subscriptions = max_subscriptions
        self._displays: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def process_message(
        self, connection: WebSocketConnection, message: str | bytes, *, refusal: MessageProcessingError | None = None
    ) -> None:
        """Carry out one message and queue its reply; with ``refusal`` only say why it is not carried out."""
        kind: MessageType | None = None
        request_id: RequestId | None = None
        try:
            request = parse_request(message)
            request_id = request.request_id
            kind = _kind_of(request)
            if refusal is not None:
                raise refusal
            reply = await self._carry_out(kind, connection, request)
        except DetectorWorkerError as exc:
            reply = _error_reply(kind, exc)
        except Exception:  # this client's boundary: a bug here is not the others' trouble
            logger.exception("A request of client %s failed", connection.client_id)
            reply = _error_reply(kind, _FAILED)
        connection.send_message(reply.model_copy(update={"request_id": request_id}).to_wire())
        if kind is MessageType.SUBSCRIBE and reply.subscription_id is not None:
            self._tell_stream_status(connection, reply.subscription_id)

    async def _carry_out(self, kind: MessageType, connection: WebSocketConnection, request: Request) -> Reply:
        match kind:
            case MessageType.SUBSCRIBE:
                return await self._handle_subscribe(connection, parse_payload(SubscribePayload, request))
            case MessageType.UNSUBSCRIBE:
                return await self._handle_unsubscribe(connection, parse_payload(UnsubscribePayload, request))
            case MessageType.REQUEST_STATE:
                return self._handle_state_request()
            case MessageType.SET_SESSION_ID | MessageType.PATCH_SESSION:
                return await self._handle_session_ops(kind, request)

    async def _handle_subscribe(self, connection: WebSocketConnection, payload: SubscribePayload) -> Reply:
        spec = subscription_spec(payload, camera_policy=self._camera_policy, archive_policy=self._archive_policy)
        known = spec.subscription_id in connection.subscriptions
        if not known and len(connection.subscriptions) >= self._max_subscriptions:
            what = f"One connection may hold {self._max_subscriptions} subscriptions"
            mend = "Unsubscribe from one, open another connection, or raise access.max_subscriptions."
            raise refused(what, mend, ErrorCode.LIMIT_EXCEEDED)
        live = bool(payload.live_detections)
        await self._engine.subscribe(connection.client_id, spec, live_detections=live)
        self._connections.add_subscription(connection, spec.subscription_id, live=live)
        return _success(MessageType.SUBSCRIBE, subscription_id=spec.subscription_id)

    async def _handle_unsubscribe(self, connection: WebSocketConnection, payload: UnsubscribePayload) -> Reply:
        subscription_id = payload.subscription_identifier
        await self._engine.unsubscribe(connection.client_id, subscription_id)
        self._connections.remove_subscription(connection, subscription_id)
        return _success(MessageType.UNSUBSCRIBE, subscription_id=subscription_id)

    def _handle_state_request(self) -> Reply:
        return Reply(type=MessageType.REQUEST_STATE.reply_type, status="success", payload=self._collect_system_state())

    async def _handle_session_ops(self, kind: MessageType, request: Request) -> Reply:
        if kind is MessageType.PATCH_SESSION:
            patch = parse_payload(PatchSessionPayload, request)
            merged = SessionPayload(session=dict(await self._sessions.patch(patch.session_id, patch.data)))
            return Reply(type=kind.reply_type, status="success", payload=merged)
        payload = parse_payload(SetSessionIdPayload, request)
        display_id = payload.display_identifier
        if display_id is None and payload.subscription_identifier is not None:
            display_id = payload.subscription_identifier.partition(";")[0]
        if display_id is None:
            mend = "Give displayIdentifier or subscriptionIdentifier."
            raise refused("No display is named", mend, ErrorCode.INVALID_FIELD, "displayIdentifier")
        await asyncio.shield(self._set_session(display_id, payload.session_id))
        return _success(kind)

    async def _set_session(self, display_id: str, session_id: SessionId | None) -> None:
        """Put a display into a session: on disk, then at work; whole, and one after the other, so that both agree."""
        async with self._displays.setdefault(display_id, asyncio.Lock()):
            await self._sessions.set_display(display_id, session_id)
            await self._engine.set_session(display_id, session_id)

    def _tell_stream_status(self, connection: WebSocketConnection, subscription_id: str) -> None:
        """Tell a new watcher how the camera is now; the changes that led there it could not see."""
        status = self._streams.get(subscription_id.partition(";")[2])
        if status is not None:
            connection.send_message(stream_status(subscription_id, status).to_wire())


def _kind_of(request: Request) -> MessageType:
    try:
        return MessageType(request.type)
    except ValueError:
        mend = f"Known types: {', '.join(MessageType)}."
        raise refused("A message of unknown type", mend, ErrorCode.UNKNOWN_TYPE, "type") from None


def _success(kind: MessageType, *, subscription_id: str | None = None) -> Reply:
    return Reply(type=kind.reply_type, status="success", subscription_id=subscription_id)


def _error_reply(kind: MessageType | None, error: DetectorWorkerError) -> Reply:
    field: str | None = None
    match error:
        case MessageProcessingError():
            code = next((known for known in ErrorCode if known == error.code), ErrorCode.INTERNAL)
            field = error.field
        case ModelCacheError():
            code = ErrorCode.LIMIT_EXCEEDED
        case ArchiveDownloadError():
            code = ErrorCode.DOWNLOAD_FAILED
        case ModelError() | PipelineError():
            code = ErrorCode.ARCHIVE_INVALID
        case _:
            code = ErrorCode.INTERNAL
    detail = ErrorDetail(code=code, message=str(error)[:_MAX_ERROR_LENGTH], field=field)
    return Reply(type=kind.reply_type if kind else "error", status="error", error=detail)
