"""Redis or Valkey: the client, and what pictures, messages and listeners need of it.

No driver object and no driver exception leaves this module. Nothing is retried in here, since a PUBLISH whose
answer was lost may have been heard: whoever calls decides (the drainer does, with keys of its own).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import urlsplit

import redis.asyncio
import redis.exceptions
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from detector_worker.core.addresses import Address
from detector_worker.core.exceptions import ConfigurationError, MessageProcessingError
from detector_worker.storage.faults import redis_error

__all__ = ["Command", "RedisClient", "RedisImageStorage", "RedisPublisher", "RedisSubscriber"]

T = TypeVar("T")
Command = tuple[str | bytes | int, ...]
"""A command with its arguments, such as ``("SET", key, value)``."""

_SCHEMES: Final = frozenset({"redis", "rediss"})
_SCAN_COUNT: Final = 500


class RedisClient:
    """A pool of connections to one server. Every coroutine runs on one event loop; no task or thread of its own.

    Values come back as bytes. Everything raises `RedisError`; `TransientRedisError` where another try may help.
    """

    def __init__(self, url: str, *, connect_s: float = 3.0, reply_s: float = 5.0, operation_s: float = 10.0) -> None:
        """Prepare; nothing is connected yet. ConfigurationError: the address cannot be read.

        ``url``: ``redis://``, ``rediss://`` or ``unix://``, with credentials where they are needed. The times are for
        making a connection, for the silence of the server, and for a whole call, seconds.
        """
        self._where = _shown(url)
        self._operation_s = operation_s
        self._driver = redis.asyncio.Redis.from_url(
            url,
            socket_connect_timeout=connect_s,
            socket_timeout=reply_s,
            retry=Retry(NoBackoff(), 0),
            client_name="detector-worker",
        )

    async def connect(self) -> None:
        """Make sure that the server answers."""
        await self.pipeline([("PING",)])

    async def disconnect(self) -> None:
        """Close all connections; the next call connects anew."""
        await self.bounded(self._driver.aclose)

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

        async def execute() -> list[Any]:
            async with self._driver.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                return await pipe.execute(raise_on_error=False)

        replies = await self.bounded(execute)
        for reply in replies:
            if isinstance(reply, Exception):
                raise redis_error(reply, where=self._where) from reply
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

    def new_listener(self) -> PubSub:
        """Return the driver's own listener, for `RedisSubscriber` alone."""
        return self._driver.pubsub()

    async def bounded(self, operation: Callable[[], Awaitable[T]], *, for_ever: bool = False) -> T:
        """Carry out an operation of the driver, within the time of a whole call, and translate its errors."""
        try:
            async with asyncio.timeout(None if for_ever else self._operation_s):
                return await operation()
        except (redis.exceptions.RedisError, OSError) as exc:
            raise redis_error(exc, where=self._where) from exc


class RedisImageStorage:
    """Pictures under keys that expire."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    async def store_image(self, key: str, image: bytes, *, expire_s: int) -> None:
        """Set a picture for ``expire_s`` seconds from now."""
        await self._client.set(key, image, expire_s=expire_s)

    async def retrieve_image(self, key: str) -> bytes | None:
        """Return a picture, or None where it is absent or has expired."""
        return await self._client.get(key)

    async def delete_image(self, key: str) -> bool:
        """Delete a picture; False where there was none."""
        return await self._client.delete(key) == 1

    async def cleanup_expired(self, pattern: str) -> int:
        """Walk over the keys of a pattern, so that the server frees expired ones now, and return how many live."""
        async with aclosing(self._client.scan_keys(pattern)) as keys:
            return len({key async for key in keys})


class RedisPublisher:
    """Tells channels."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    async def publish(self, channel: str, message: str | bytes) -> int:
        """Publish once and return how many listened."""
        return cast("int", (await self._client.pipeline([("PUBLISH", channel, message)]))[0])


class RedisSubscriber:
    """Listens to channels, on a connection of its own; close it with `close`."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._listener = client.new_listener()

    async def subscribe(self, *channels: str) -> None:
        """Return when the server has confirmed that these channels are heard from now on; not beside `listen`."""

        async def confirmed() -> None:
            await self._listener.subscribe(*channels)
            missing = len(channels)
            while missing:
                reply = await self._listener.get_message(timeout=None)
                missing -= reply is not None and reply["type"] == "subscribe"

        await self._client.bounded(confirmed)

    async def listen(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """Yield channel and message of each publication, for ever; what is published while it is away is not heard."""
        while True:
            reply = await self._client.bounded(lambda: self._listener.get_message(timeout=None), for_ever=True)
            if reply is not None and reply["type"] == "message":
                yield reply["channel"].decode(), reply["data"]

    async def close(self) -> None:
        """Close the connection."""
        await self._client.bounded(self._listener.aclose)


def _shown(url: str) -> str:
    """Return what may be shown of an address."""
    try:
        return urlsplit(url).path if url.startswith("unix://") else str(Address.parse(url, _SCHEMES))
    except (MessageProcessingError, ValueError) as exc:
        what = exc.what if isinstance(exc, MessageProcessingError) else "The address cannot be read"
        raise ConfigurationError(
            what, where="redis.url", mend="Write redis://host:6379/0, rediss://... or unix:///folder/socket."
        ) from None
