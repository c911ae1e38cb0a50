"""Redis or Valkey: the client. No driver's exception leaves it.

Nothing is retried in here, since a PUBLISH whose answer was lost may have been heard: whoever calls decides (the
drainer does, with keys of its own).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, Self, TypeVar, cast

import redis.exceptions
from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection

from detector_worker.storage.faults import TransientRedisError, redis_error
from detector_worker.storage.redis.address import RedisTls, new_pool, shown_address

__all__ = ["Command", "RedisClient"]

T = TypeVar("T")
Command = tuple[str | bytes | int, ...]
"""A command with its arguments, such as ``("SET", key, value)``."""

_SCAN_COUNT: Final = 500
_PIECE_BYTES: Final = 128 * 1024
"""Sent at once: what the socket does not take is moved to and fro by the event loop, at a cost that grows with it."""
_REPLIES_PER_LIMIT: Final = 64
"""To start the time of a reply anew costs as much as the reply."""


class RedisClient:
    """A pool of connections to one server. Every coroutine runs on one event loop; no task or thread of its own.

    Values come back as bytes. Everything raises `RedisError`; `TransientRedisError` where another try may help.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: RedisTls | None = None,
        connect_s: float = 3.0,
        reply_s: float = 5.0,
        operation_s: float = 10.0,
    ) -> None:
        """Prepare; nothing is connected yet. ConfigurationError: the address or a file of ``tls`` cannot be used.

        ``url``: ``redis://``, ``rediss://`` or ``unix://``, with credentials where they are needed. The times are for
        making a connection, for the silence of the server, and for a whole call, seconds.
        """
        self.reply_s = reply_s
        self.connections_made = 0
        """Since the start: a change tells that the server may be another one, or has other settings."""
        self._where = shown_address(url)
        self._connect_s, self._operation_s = connect_s, operation_s
        self._pool: Any = new_pool(url, tls or RedisTls(), connect_s=connect_s, on_connect=self._greet)

    async def connect(self) -> None:
        """Make sure that the server answers."""
        await self.pipeline([("PING",)])

    async def disconnect(self) -> None:
        """Close all connections; the next call connects anew."""
        await self.bounded(self._pool.aclose)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    async def set(self, key: str, value: bytes | str, *, expire_s: int | None = None) -> None:
        """Set a key, for ``expire_s`` seconds or for ever."""
        await self.pipeline([("SET", key, value) if expire_s is None else ("SET", key, value, "EX", expire_s)])

    async def get(self, key: str) -> bytes | None:
        """Return a key's value, or None."""
        return cast("bytes | None", (await self.pipeline([("GET", key)]))[0])

    async def delete(self, *keys: str) -> int:
        """Delete keys and return how many of them there were."""
        return cast("int", (await self.pipeline([("DEL", *keys)]))[0]) if keys else 0

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands at once and return their replies in order; others' commands may come between.

        The error is that of the first command that failed; the others were carried out all the same, unless the
        connection was lost.
        """
        replies = await self.bounded(lambda: self._exchange(commands))
        refusals = [reply for reply in replies if isinstance(reply, Exception)]
        if refusals:
            errors = [redis_error(refusal, where=self._where) for refusal in refusals]
            if any(isinstance(error, TransientRedisError) for error in errors):
                # A primary that was demoted refuses for ever, while its address may lead to its successor by now.
                await self.bounded(lambda: self._pool.disconnect(inuse_connections=False))
            raise errors[0] from refusals[0]
        return replies

    async def scan_keys(self, pattern: str) -> AsyncGenerator[str, None]:
        """Yield the keys that match a pattern, without holding the server up; a key may come twice."""
        cursor: int | bytes = 0
        while True:
            scan: Command = ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
            cursor, keys = (await self.pipeline([scan]))[0]
            for key in keys:
                yield key.decode(errors="surrogateescape")
            if int(cursor) == 0:
                return

    async def take_connection(self) -> AbstractConnection:
        """Take one of the driver's connections, for this folder alone; `give_back` it.

        What is refused at a connection's beginning, even a right, is an error of the connection, so that it may pass.
        """
        take: Callable[[], Awaitable[AbstractConnection]] = self._pool.get_connection
        return await self.bounded(take, limit_s=self._connect_s)

    async def give_back(self, connection: AbstractConnection, *, is_clean: bool) -> None:
        """Return a connection; one that is not ``is_clean``, as a reply may still come on it, is closed."""
        if not is_clean:
            await connection.disconnect(nowait=True)
        await self._pool.release(connection)

    async def bounded(self, operation: Callable[[], Awaitable[T]], *, limit_s: float | None = None) -> T:
        """Carry out what the driver does, within ``limit_s`` or the time of a whole call, and translate its errors."""
        try:
            async with asyncio.timeout(self._operation_s if limit_s is None else limit_s):
                return await operation()
        except (redis.exceptions.RedisError, OSError) as exc:
            raise redis_error(exc, where=self._where) from exc

    async def _greet(self, connection: AbstractConnection) -> None:
        self.connections_made += 1
        await connection.on_connect()

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send all, then read all: a server keeps short answers until they are fetched. Refusals are among them."""
        loop, connection, is_clean = asyncio.get_running_loop(), await self.take_connection(), False
        try:
            async with asyncio.timeout(self.reply_s) as silence:
                for piece in _pieces(commands):
                    await connection.send_packed_command(piece, check_health=False)
                    silence.reschedule(loop.time() + self.reply_s)
                replies = []
                for number in range(len(commands)):
                    if number % _REPLIES_PER_LIMIT == 0:
                        silence.reschedule(loop.time() + self.reply_s)
                    replies.append(await _reply(connection))
            is_clean = True
        finally:
            await self.give_back(connection, is_clean=is_clean)
        return replies


def _pieces(commands: Sequence[Command]) -> Iterator[list[bytes]]:
    """Yield commands as bytes to be sent."""
    piece: list[bytes] = []
    size_bytes = 0
    for command in commands:
        arguments: Any = tuple(map(_encoded, command))  # hiredis declares that it takes one argument
        packed: bytes = pack_command(arguments)
        piece.append(packed)
        size_bytes += len(packed)
        if size_bytes >= _PIECE_BYTES:
            yield piece
            piece, size_bytes = [], 0
    if piece:
        yield piece


def _encoded(argument: str | bytes | int) -> bytes | int:
    return argument.encode(errors="surrogateescape") if isinstance(argument, str) else argument  # as keys are read


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except redis.exceptions.ResponseError as exc:
        return exc
