"""One client's socket, and all of them. Lives on the event loop alone.

Nobody ever waits for a client: messages are put into its bounded queue, and one sender task per
connection takes them out.
"""

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import Hashable, Iterator

from starlette.websockets import WebSocket, WebSocketDisconnect

from detector_worker.communication.access import SUBPROTOCOL

__all__ = ["ConnectionClosedError", "ConnectionManager", "WebSocketConnection"]

logger = logging.getLogger(__name__)


class ConnectionClosedError(Exception):
    """The worker has ended a connection; raised by its sender so that its other task ends too."""


class WebSocketConnection:
    """One client. Owns the socket; its sender task is run by whoever made it (`run_sender`)."""

    def __init__(
        self, websocket: WebSocket, *, client_id: str, queue_size: int = 256, send_timeout_s: float = 10.0
    ) -> None:
        """Wrap a socket that is not accepted yet; more than ``queue_size`` waiting messages close it (1013)."""
        self.client_id = client_id
        self.subscriptions: dict[str, bool] = {}
        """By subscription id: whether this client wants a message per analysed frame."""
        self._websocket = websocket
        self._queue_size, self._send_timeout_s = queue_size, send_timeout_s
        self._pending: OrderedDict[Hashable, tuple[str, bool]] = OrderedDict()
        self._numbers = itertools.count()
        self._wake = asyncio.Event()
        self._closing: tuple[int, str] | None = None
        self._open = False

    async def accept(self) -> None:
        """Accept the socket; selects our subprotocol where it is offered, and never echoes a token."""
        offered = self._websocket.scope.get("subprotocols", ())
        await self._websocket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
        self._open = True

    def send_message(self, text: str, *, replaces: Hashable | None = None) -> None:
        """Queue a message; of those with one ``replaces`` only the newest is kept. Never waits, never raises."""
        if self._closing is not None:
            return
        if replaces is not None:
            # The newest goes to the end: in its predecessor's place it would overtake what came between.
            self._pending.pop(replaces, None)
        if len(self._pending) >= self._queue_size and not self._make_room(wanted=replaces is None):
            return
        key = next(self._numbers) if replaces is None else replaces
        self._pending[key] = text, replaces is not None
        self._wake.set()

    async def receive_message(self) -> str | bytes | None:
        """Return the client's next message, or None when it has gone."""
        message = await self._websocket.receive()
        if message["type"] != "websocket.receive":
            return None
        text: str | None = message.get("text")
        return text if text is not None else bytes(message["bytes"])

    def ping(self) -> bool:
        """True while the client takes what it is sent; the pings on the wire are the server's own."""
        return self._open

    def close(self, code: int, reason: str) -> None:
        """End the connection once what is queued has gone out; the first call counts."""
        if self._closing is None:
            self._closing = code, reason
            self._wake.set()

    async def run_sender(self) -> None:
        """Send what is queued until the connection is closed or the client takes nothing more.

        Raises:
            ConnectionClosedError: Always, in the end.
        """
        try:
            while (text := await self._next()) is not None:
                async with asyncio.timeout(self._send_timeout_s):
                    await self._websocket.send_text(text)
            code, reason = self._closing or (1000, "")
            async with asyncio.timeout(self._send_timeout_s):
                await self._websocket.close(code, reason)
        except TimeoutError:
            logger.warning("Client %s took nothing for %g s and is dropped", self.client_id, self._send_timeout_s)
        except (WebSocketDisconnect, RuntimeError) as exc:
            logger.debug("Client %s has gone: %r", self.client_id, exc)
        finally:
            self._open = False
        raise ConnectionClosedError

    async def _next(self) -> str | None:
        while not self._pending:
            if self._closing is not None:
                return None
            self._wake.clear()
            await self._wake.wait()
        return self._pending.popitem(last=False)[1][0]

    def _make_room(self, *, wanted: bool) -> bool:
        """Drop the oldest message that may be dropped; without one, a wanted message ends the connection."""
        if not wanted:
            return False
        oldest = next((key for key, (_, replaceable) in self._pending.items() if replaceable), None)
        if oldest is not None:
            del self._pending[oldest]
            return True
        logger.warning("Client %s reads too slowly: %d messages wait; it is closed", self.client_id, len(self._pending))
        self._pending.clear()
        self.close(1013, "The client reads too slowly.")
        return False


class ConnectionManager:
    """All clients, and who watches what."""

    def __init__(self) -> None:
        self._connections: dict[str, WebSocketConnection] = {}
        self._watchers: dict[str, dict[str, WebSocketConnection]] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[WebSocketConnection]:
        return iter(tuple(self._connections.values()))

    def add_connection(self, connection: WebSocketConnection) -> None:
        """Take a client in."""
        self._connections[connection.client_id] = connection

    def remove_connection(self, connection: WebSocketConnection) -> None:
        """Forget a client and what it watched; harmless where it is not known."""
        self._connections.pop(connection.client_id, None)
        for subscription_id in tuple(connection.subscriptions):
            self.remove_subscription(connection, subscription_id)

    def add_subscription(self, connection: WebSocketConnection, subscription_id: str, *, live: bool = False) -> None:
        """Let a client see a subscription's results; with ``live`` also those of single frames."""
        connection.subscriptions[subscription_id] = live
        self._watchers.setdefault(subscription_id, {})[connection.client_id] = connection

    def remove_subscription(self, connection: WebSocketConnection, subscription_id: str) -> None:
        """Let it see them no more; harmless where it does not."""
        connection.subscriptions.pop(subscription_id, None)
        watchers = self._watchers.get(subscription_id, {})
        watchers.pop(connection.client_id, None)
        if not watchers:
            self._watchers.pop(subscription_id, None)

    def has_live_watchers(self, subscription_id: str) -> bool:
        """Whether anybody wants this subscription's single frames."""
        return any(one.subscriptions[subscription_id] for one in self._watchers.get(subscription_id, {}).values())

    def broadcast(self, text: str, *, replaces: Hashable | None = None) -> None:
        """Queue one text for everybody."""
        for connection in self._connections.values():
            connection.send_message(text, replaces=replaces)

    def broadcast_to_subscription(
        self, subscription_id: str, text: str, *, live: bool = False, replaces: Hashable | None = None
    ) -> None:
        """Queue one text for a subscription's watchers; with ``live`` only for those who want single frames."""
        for connection in self._watchers.get(subscription_id, {}).values():
            if not live or connection.subscriptions[subscription_id]:
                connection.send_message(text, replaces=replaces)
