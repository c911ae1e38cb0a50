"""A Redis of one test's own, and a listener beside it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from support.folders import open_folder

from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.redis_client import RedisClient, RedisSubscriber

__all__ = ["hearing", "private_redis", "url_of"]


@contextmanager
def private_redis() -> Iterator[EmbeddedServers]:
    """Run one whose settings, users and life are the test's; a killed one is started again."""
    with open_folder() as folder, EmbeddedServers(folder / "data", postgresql=False) as running:
        yield running


def url_of(servers: EmbeddedServers) -> str:
    return f"unix://{servers.redis_socket}"


@asynccontextmanager
async def hearing(client: RedisClient, *channels: str) -> AsyncIterator[RedisSubscriber]:
    """Listen to channels for the length of the block."""
    subscriber = RedisSubscriber(client)
    await subscriber.subscribe(*channels)
    yield subscriber
    await subscriber.close()
