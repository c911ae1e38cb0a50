import asyncio
from collections.abc import Iterator

import psutil
import pytest
from support.freezing import frozen
from support.redis_servers import private_redis, url_of
from support.waiting import wait_until

from detector_worker.core.exceptions import ConfigurationError, RedisError
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.faults import TransientRedisError
from detector_worker.storage.redis_client import RedisClient, RedisImageStorage, RedisPublisher, RedisSubscriber

CANARY = "canary-password"


async def test_keys_are_walked_over_in_portions(redis_client: RedisClient) -> None:
    names = {f"inference:{number}" for number in range(1_234)}
    await redis_client.pipeline([("SET", name, "x") for name in (*names, "other")])

    assert {key async for key in redis_client.scan_keys("inference:*")} == names
    assert await RedisImageStorage(redis_client).cleanup_expired("inference:*") == len(names)


async def test_values_are_set_got_and_deleted(redis_client: RedisClient) -> None:
    await redis_client.set("a", "ü")
    await redis_client.set("b", b"\x00", expire_s=60)

    assert await redis_client.get("a") == "ü".encode()
    assert await redis_client.get("absent") is None
    assert await redis_client.pipeline([("TTL", "a"), ("TTL", "b")]) == [-1, 60]
    assert await redis_client.delete("a", "b", "absent") == 2
    assert await redis_client.delete() == 0


async def test_one_refused_command_is_an_error_and_the_others_are_carried_out(redis_client: RedisClient) -> None:
    with pytest.raises(RedisError, match="wrong kind") as caught:
        await redis_client.pipeline([("SET", "text", "x"), ("LPUSH", "text", "y"), ("SET", "after", "z")])

    assert not isinstance(caught.value, TransientRedisError)
    assert await redis_client.get("after") == b"z"


async def test_what_a_full_server_refuses_may_succeed_later(redis_client: RedisClient) -> None:
    await redis_client.pipeline([("CONFIG", "SET", "maxmemory", "1")])
    try:
        with pytest.raises(TransientRedisError, match="memory"):
            await redis_client.set("k", b"x")
    finally:
        await redis_client.pipeline([("CONFIG", "SET", "maxmemory", "0")])


async def test_a_listener_hears_what_is_published_after_it_subscribed(redis_client: RedisClient) -> None:
    publisher, subscriber = RedisPublisher(redis_client), RedisSubscriber(redis_client)
    assert await publisher.publish("gate", "nobody hears") == 0
    await subscriber.subscribe("gate", "yard")

    assert await publisher.publish("yard", b"\xff") == 1
    assert await publisher.publish("gate", "ü") == 1

    heard = subscriber.listen()
    assert [await anext(heard), await anext(heard)] == [("yard", b"\xff"), ("gate", "ü".encode())]
    await subscriber.close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://user:{CANARY}@127.0.0.1:1/0", "127.0.0.1:1"),
        (f"unix:///nowhere/socket?password={CANARY}", "/nowhere/socket"),
    ],
)
async def test_an_error_shows_the_address_without_its_password(url: str, shown: str) -> None:
    with pytest.raises(TransientRedisError) as caught:
        await RedisClient(url).connect()

    assert shown in str(caught.value)
    assert CANARY not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{CANARY}@host",
        f"redis://h/0?secret={CANARY}",
        f"redis://h/0?db={CANARY}",
        f"redis://:{CANARY}@ho st",
        f"{CANARY}",
        "redis://h:port",
    ],
)
async def test_an_address_that_cannot_be_read_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"redis\.url") as caught:
        RedisClient(url)

    assert CANARY not in str(caught.value)


@pytest.fixture
def private_servers() -> Iterator[EmbeddedServers]:
    with private_redis() as running:
        yield running


async def test_a_frozen_server_costs_no_more_than_the_time_of_a_reply(private_servers: EmbeddedServers) -> None:
    loop = asyncio.get_running_loop()
    async with RedisClient(url_of(private_servers), connect_s=0.5, reply_s=0.5) as client:
        with frozen(private_servers.processes()["redis"]):
            for _ in range(2):
                began_s = loop.time()
                with pytest.raises(TransientRedisError):
                    await client.set("k", "frozen")
                assert loop.time() - began_s < 2

        await client.set("k", "thawed")
        assert await client.get("k") == b"thawed"  # and not the answer to an older question


async def test_a_client_finds_a_server_that_was_killed_and_is_back(private_servers: EmbeddedServers) -> None:
    async with RedisClient(url_of(private_servers)) as client:
        await client.set("k", "x")
        psutil.Process(private_servers.processes()["redis"]).kill()

        async def answers() -> bool:
            try:
                await client.set("k", "y")
            except TransientRedisError:
                return False
            return True

        await wait_until(answers, timeout_s=10)
        assert await client.get("k") == b"y"
