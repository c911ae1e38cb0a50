"""Telling and hearing channels: at once, or once in effect and never late."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from enum import IntEnum
from typing import Final, cast

from redis.asyncio.connection import AbstractConnection

from detector_worker.core.clock import Backoff
from detector_worker.storage.faults import TransientRedisError
from detector_worker.storage.redis.pool import Command, RedisClient

__all__ = ["Publication", "RedisPublisher", "RedisSubscriber", "publish_once_command"]

_DELIVERED_PREFIX: Final = "detector_worker:delivered:"
_PING_AFTER_S: Final = 5.0
# Only who sets the key publishes: after a lost answer the same message is not heard twice. The server's own clock
# decides: a server that was frozen may find this in its socket long after we have given up waiting.
_PUBLISH_ONCE: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 2 end
local now = redis.call('TIME')
if now[1] + now[2] / 1000000 > tonumber(ARGV[4]) then return 3 end
redis.call('SET', KEYS[1], '', 'EX', ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
"""


class Publication(IntEnum):
    """What became of a message that is to be published once: what `publish_once_command` answers."""

    PUBLISHED = 1
    HEARD_BEFORE = 2
    TOO_OLD = 3


def publish_once_command(key: str, channel: str, message: str, *, until_s: float, remember_s: int) -> Command:
    """Return what publishes, unless that was done before under this ``key`` or the server's clock is past ``until_s``.

    ``until_s``: seconds since 1970 by the server's clock. ``remember_s``: how long the key is kept, from now; longer
    than until then.
    """
    return ("EVAL", _PUBLISH_ONCE, 1, _DELIVERED_PREFIX + key, remember_s, channel, message, f"{until_s:.6f}")


class RedisPublisher:
    """Tells channels."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    async def publish(self, channel: str, message: str | bytes) -> int:
        """Publish once and return how many listened."""
        return cast("int", (await self._client.pipeline([("PUBLISH", channel, message)]))[0])


class RedisSubscriber:
    """Listens to channels, on a connection of its own that is made again whenever it is lost.

    Close it with `close`. A server that is silent for ``ping_after_s`` is asked for a sign of life; where none comes
    within the client's ``reply_s``, the connection counts as lost: after 10 s, where neither was set.
    """

    def __init__(self, client: RedisClient, *, ping_after_s: float = _PING_AFTER_S) -> None:
        self._client, self._ping_after_s = client, ping_after_s
        self._channels: dict[str, None] = {}
        self._connection: AbstractConnection | None = None
        self._early: deque[tuple[str, bytes]] = deque()

    async def subscribe(self, *channels: str) -> None:
        """Return when the server has confirmed that these channels are heard from now on; not beside `listen`."""
        self._channels.update(dict.fromkeys(channels))
        connection = self._connection = self._connection or await self._client.take_connection()
        try:
            await self._client.bounded(lambda: self._confirm(connection, channels))
        except BaseException:  # what the server has taken is unknown: `listen` begins anew
            await self._drop()
            raise

    async def listen(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """Yield channel and message of each publication, for ever.

        A lost connection is made again with growing delays of at most 10 s, and the channels are subscribed anew; what
        is published meanwhile is not heard, and nothing tells that it was missed. RedisError: this user may not listen
        to them any more.
        """
        backoff = Backoff(base_s=0.2, cap_s=10.0)
        while True:
            try:
                if self._connection is None:
                    await self.subscribe(*self._channels)
                heard = self._early.popleft() if self._early else await self._next()
                backoff.note_success(time.monotonic())
            except TransientRedisError:
                await self._drop()
                await asyncio.sleep(backoff.next_delay_s())
                continue
            if heard is not None:
                yield heard

    async def close(self) -> None:
        """Close the connection, and forget the channels."""
        self._channels.clear()
        await self._drop()

    async def _confirm(self, connection: AbstractConnection, channels: tuple[str, ...]) -> None:
        await connection.send_command("SUBSCRIBE", *channels)
        missing = len(channels)
        while missing:
            reply = await connection.read_response()
            if (heard := _message(reply)) is not None:
                self._early.append(heard)
            missing -= reply[0] == b"subscribe"

    async def _next(self) -> tuple[str, bytes] | None:
        """Return the next message, or None for another sign of life."""
        reply = await self._read(self._ping_after_s)
        if reply is None:
            connection = self._connection
            assert connection is not None
            await self._client.bounded(lambda: connection.send_command("PING"))
            reply = await self._read(self._client.reply_s)
        if reply is None:
            mend = "Check that the server runs and can be reached."
            raise TransientRedisError("Redis gives no sign of life", where="subscription", mend=mend)
        return _message(reply)

    async def _read(self, timeout_s: float) -> list[bytes] | None:
        connection = self._connection
        assert connection is not None
        return await self._client.bounded(
            lambda: connection.read_response(timeout=timeout_s), limit_s=timeout_s + self._client.reply_s
        )

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._early.clear()
        if connection is not None:
            await self._client.give_back(connection, is_clean=False)


def _message(reply: list[bytes]) -> tuple[str, bytes] | None:
    return (reply[1].decode(errors="surrogateescape"), reply[2]) if reply[0] == b"message" else None
