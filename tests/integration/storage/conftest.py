"""A Redis whose settings, users and life are those of one test file."""

from collections.abc import AsyncIterator, Iterator

import pytest
from support.redis_servers import private_redis, url_of

from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.redis_client import RedisClient


@pytest.fixture(scope="module")
def private() -> Iterator[EmbeddedServers]:
    """One that is started again when it is killed."""
    with private_redis() as running:
        yield running


@pytest.fixture
async def admin(private: EmbeddedServers) -> AsyncIterator[RedisClient]:
    """Who may do everything there; keys and the user ``dw`` are gone afterwards."""
    async with RedisClient(url_of(private)) as client:
        yield client
        await client.pipeline([("FLUSHALL",), ("ACL", "DELUSER", "dw")])
