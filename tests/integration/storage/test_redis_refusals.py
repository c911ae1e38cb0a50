"""What a server refuses: for now, or for ever."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.folders import open_folder
from support.redis_servers import url_of
from support.spooling import image, publication
from support.waiting import wait_until

from detector_worker.core.clock import SystemClock
from detector_worker.core.exceptions import RedisError
from detector_worker.core.outbox import SpoolEntry, StoreImage
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.faults import TransientRedisError
from detector_worker.storage.redis_client import Command, RedisClient
from detector_worker.storage.sinks import RedisSink

Case = tuple[Command, Command]
"""What causes the trouble, and what ends it."""
IMAGE, MESSAGE = image("r", key="k", content=bytes(1000)), publication("r", channel="c", message="m", max_age_s=3600)


@pytest.fixture
async def client(private: EmbeddedServers) -> AsyncIterator[RedisClient]:
    """Connected already when the trouble begins."""
    async with RedisClient(url_of(private)) as client:
        yield client


DEMOTED: Case = (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"))
FULL: Case = (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"))
ALONE: Case = (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0"))
"""In scripts, Redis 6 does not mind."""


@pytest.mark.parametrize(
    ("entry", "case"), [(IMAGE, DEMOTED), (MESSAGE, DEMOTED), (IMAGE, FULL), (MESSAGE, FULL), (IMAGE, ALONE)]
)
async def test_what_may_pass_is_tried_again_and_then_succeeds(
    admin: RedisClient, client: RedisClient, entry: SpoolEntry, case: Case
) -> None:
    cause, cure = case
    sink = RedisSink(client, clock=SystemClock())
    await admin.pipeline([cause])
    try:
        with pytest.raises(TransientRedisError):
            await sink.deliver([entry])
    finally:
        await admin.pipeline([cure])

    assert not await sink.deliver([entry])


async def test_a_demoted_server_s_connections_are_left(admin: RedisClient, client: RedisClient) -> None:
    """So that the next attempt goes to where the address leads by then."""
    made = client.connections_made
    await admin.pipeline([("REPLICAOF", "127.0.0.1", "1")])
    with pytest.raises(TransientRedisError, match="read only replica"):
        await client.set("k", "x")
    await admin.pipeline([("REPLICAOF", "NO", "ONE")])

    await client.set("k", "x")

    assert client.connections_made == made + 1


async def test_a_busy_server_is_waited_for(private: EmbeddedServers, admin: RedisClient, client: RedisClient) -> None:
    await admin.pipeline([("CONFIG", "SET", "lua-time-limit", "10")])
    hog = RedisClient(url_of(private))
    endless = asyncio.ensure_future(hog.pipeline([("EVAL", "while true do end", 0)]))
    await asyncio.sleep(0.2)
    try:
        with pytest.raises(TransientRedisError, match="busy"):
            await client.set("k", "x")
    finally:
        await admin.pipeline([("SCRIPT", "KILL")])
    with pytest.raises(RedisError):
        await endless

    await client.set("k", "x")
    await hog.disconnect()


async def test_deliveries_go_on_after_the_password_has_changed_and_is_back(
    private: EmbeddedServers, admin: RedisClient, client: RedisClient
) -> None:
    sink = RedisSink(client, clock=SystemClock())
    await admin.pipeline([("CONFIG", "SET", "requirepass", "new"), ("CLIENT", "KILL", "TYPE", "normal")])
    for _ in range(2):
        with pytest.raises(TransientRedisError, match=r"(?i)authenti|password"):
            await sink.deliver([IMAGE, MESSAGE])

    # The server is ours by its new password; then it is as it was.
    async with RedisClient(f"unix://:new@{private.redis_socket}") as operator:
        assert not await RedisSink(operator, clock=SystemClock()).deliver([IMAGE])
        with pytest.raises(TransientRedisError) as caught:
            await RedisClient(f"unix://:old@{private.redis_socket}").connect()
        assert "old" not in str(caught.value)
        await operator.pipeline([("CONFIG", "SET", "requirepass", "")])

    assert not await sink.deliver([IMAGE, MESSAGE])


async def test_what_can_never_be_is_told_among_what_succeeds(client: RedisClient) -> None:
    never = SpoolEntry("never", "r", 0.0, StoreImage("never", b"x", expire_s=0))

    with pytest.raises(RedisError, match="expire time") as caught:
        await RedisSink(client, clock=SystemClock()).deliver([IMAGE, never, image("r", key="after")])

    assert not isinstance(caught.value, TransientRedisError)
    assert await client.get("after") == b"\xff\xd8"


async def test_a_server_that_cannot_write_its_disk_is_waited_for() -> None:
    with open_folder() as folder, EmbeddedServers(folder / "data", postgresql=False) as running:
        async with RedisClient(url_of(running)) as client:
            sink, own_folder = RedisSink(client, clock=SystemClock()), folder / "data/servers/redis"
            await client.pipeline([("CONFIG", "SET", "appendonly", "no"), ("CONFIG", "SET", "save", "3600 1")])
            own_folder.chmod(0o500)
            await client.pipeline([("BGSAVE",)])

            async def fails() -> bool:
                (facts,) = await client.pipeline([("INFO", "persistence")])
                return b"rdb_last_bgsave_status:err" in facts

            await wait_until(fails)
            for entry in (IMAGE, MESSAGE):
                with pytest.raises(TransientRedisError, match="disk"):
                    await sink.deliver([entry])

            own_folder.chmod(0o700)
            await client.pipeline([("BGSAVE",)])
            await wait_until(lambda: _delivers(sink))


async def _delivers(sink: RedisSink) -> bool:
    try:
        return not await sink.deliver([IMAGE, MESSAGE])
    except TransientRedisError:
        return False
