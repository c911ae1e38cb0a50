"""The demo's backend: a client over the real WebSocket that subscribes again whenever the worker has been away."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NoReturn

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.wire_messages import (
    ErrorCode,
    ImageDetectionPayload,
    QueueReport,
    Reply,
    StateReportPayload,
    StreamStatusPayload,
)
from detector_worker.simulator.scenes.truth import Box

__all__ = ["DISPLAY_ID", "Wish", "WorkerClient"]

DISPLAY_ID: Final = "demo"
_ASK_EVERY_S: Final = 1.0
_TICK_S: Final = 0.2
_MAX_MESSAGE_BYTES: Final = 2**24


@dataclass(frozen=True, slots=True)
class Wish:
    """A camera to be watched."""

    camera_id: str
    url: str
    model_url: str
    ignore_masks: tuple[Box, ...] = ()
    snapshot_interval_ms: int | None = None
    """How often it is asked for a picture over HTTP; None: it is watched over RTSP."""


class WorkerClient:
    """Holds subscriptions over restarts of the worker. `run` owns the connection.

    Args:
        on_result: Takes each final result, and when it arrived, seconds since 1970.
        on_status: Takes each change of a camera's connection.
    """

    def __init__(
        self,
        *,
        on_result: Callable[[ImageDetectionPayload, float], None],
        on_status: Callable[[StreamStatusPayload], None],
    ) -> None:
        self._on_result, self._on_status = on_result, on_status
        self._wishes: dict[str, Wish] = {}
        self._quiet_since_s: float | None = None

    def subscribe(self, wish: Wish) -> None:
        """Watch a camera from now on."""
        self._wishes[wish.camera_id] = wish

    @property
    def quiet_s(self) -> float:
        """For how long the worker has been there with no new result and nothing left to deliver, seconds."""
        return 0.0 if self._quiet_since_s is None else time.monotonic() - self._quiet_since_s

    async def run(self, worker_url: Callable[[], Awaitable[str]]) -> NoReturn:
        """Be connected whenever the worker is there.

        Raises:
            ServiceError: The worker refused a subscription.
        """
        while True:
            url = await worker_url()
            try:
                async with connect(url, max_size=_MAX_MESSAGE_BYTES, close_timeout=1, proxy=None) as socket:
                    await self._converse(socket)
            except (OSError, WebSocketException):
                self._quiet_since_s = None
                await asyncio.sleep(_TICK_S)  # until its supervisor has noticed too

    async def _converse(self, socket: ClientConnection) -> NoReturn:
        """Subscribe what is not yet subscribed on this connection, ask for the state, take what comes."""
        subscribed: set[str] = set()
        asked_s = 0.0
        while True:
            for camera_id in self._wishes.keys() - subscribed:
                await socket.send(_subscribe(self._wishes[camera_id]))
                subscribed.add(camera_id)
            if time.monotonic() - asked_s >= _ASK_EVERY_S:
                asked_s = time.monotonic()
                await socket.send(orjson.dumps({"type": "requestState"}).decode())
            try:
                async with asyncio.timeout(_TICK_S):
                    text = await socket.recv()
            except TimeoutError:
                continue
            self._take(text, time.time())

    def _take(self, text: str | bytes, arrived_s: float) -> None:
        message = orjson.loads(text)
        match message:
            case {"status": "error"}:
                _refuse(Reply.model_validate(message))
            case {"type": "imageDetection", "payload": {"final": True} as payload}:
                self._quiet_since_s = None
                self._on_result(ImageDetectionPayload.model_validate(payload), arrived_s)
            case {"type": "streamStatus", "payload": payload}:
                self._on_status(StreamStatusPayload.model_validate(payload))
            case {"type": "stateReport", "payload": payload}:
                self._take_queues(StateReportPayload.model_validate(payload).queues)

    def _take_queues(self, queues: QueueReport) -> None:
        if queues.records or queues.images:
            self._quiet_since_s = None
        elif self._quiet_since_s is None:
            self._quiet_since_s = time.monotonic()


def _subscribe(wish: Wish) -> str:
    payload: dict[str, object] = {
        "subscriptionIdentifier": f"{DISPLAY_ID};{wish.camera_id}",
        "modelUrl": wish.model_url,
        "options": {"ignoreMasks": wish.ignore_masks},
    }
    if wish.snapshot_interval_ms is None:
        payload["rtspUrl"] = wish.url
    else:
        payload |= {"snapshotUrl": wish.url, "snapshotInterval": wish.snapshot_interval_ms}
    return orjson.dumps({"type": "subscribe", "payload": payload, "requestId": wish.camera_id}).decode()


def _refuse(reply: Reply) -> None:
    if reply.error is not None and reply.error.code is not ErrorCode.SHUTTING_DOWN:
        raise ServiceError(
            f"The worker refused a request: {reply.error.message}",
            where=f"camera {reply.request_id}" if reply.request_id else "demo",
            mend="Look into detector_worker.log in the data folder; keep it with --data-dir.",
        )
