"""What a server's settings may lose is told."""

import logging
from collections.abc import AsyncIterator

import psutil
import pytest
from support.redis_servers import url_of
from support.spooling import image
from support.waiting import wait_until

from detector_worker.core.clock import SystemClock
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.faults import TransientRedisError
from detector_worker.storage.redis.survey import survey_server
from detector_worker.storage.redis_client import RedisClient
from detector_worker.storage.sinks import RedisSink

SAFE = {"appendonly": "yes", "save": "", "maxmemory": "0", "maxmemory-policy": "noeviction"}


@pytest.fixture
async def client(private: EmbeddedServers) -> AsyncIterator[RedisClient]:
    async with RedisClient(url_of(private)) as client:
        await configure(client, SAFE)
        yield client


async def configure(client: RedisClient, settings: dict[str, str]) -> None:
    await client.pipeline([("CONFIG", "SET", key, value) for key, value in settings.items()])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, []),
        ({"appendonly": "no"}, ["appendonly yes"]),
        ({"appendonly": "no", "save": "900 1"}, []),
        ({"maxmemory": "100mb"}, []),
        ({"maxmemory-policy": "allkeys-lru"}, []),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, ["any key"]),
        ({"maxmemory": "100mb", "maxmemory-policy": "volatile-ttl"}, ["keys that expire"]),
        ({"appendonly": "no", "maxmemory": "1gb", "maxmemory-policy": "allkeys-lfu"}, ["appendonly yes", "any key"]),
    ],
)
async def test_what_may_be_lost_is_told_with_its_cure(
    client: RedisClient, settings: dict[str, str], told: list[str]
) -> None:
    await configure(client, settings)

    warnings = await survey_server(client)

    assert len(warnings) == len(told)
    assert all(part in warning for part, warning in zip(told, warnings, strict=True))


async def test_who_may_not_ask_is_told_so_or_believes_in_snapshots(
    private: EmbeddedServers, client: RedisClient
) -> None:
    await configure(client, {"appendonly": "no"})
    answers = []
    for refused in ("-info", "-config"):
        await client.pipeline([("ACL", "SETUSER", "dw", "reset", "on", ">pw", "+@all", "~*", refused)])
        async with RedisClient(f"unix://dw:pw@{private.redis_socket}") as limited:
            answers.append(await survey_server(limited))

    assert [len(answer) for answer in answers] == [1, 0]
    assert "+info" in answers[0][0]


async def test_a_sink_warns_once_and_looks_again_after_each_new_connection(
    private: EmbeddedServers, client: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "detector_worker.storage.sinks")
    own = RedisClient(url_of(private))
    sink, entry = RedisSink(own, clock=SystemClock()), image("r", key="k")
    await configure(client, {"appendonly": "no"})
    await sink.deliver([entry])
    (first,) = sink.warnings

    await configure(client, {"appendonly": "yes"})
    await sink.deliver([entry])
    assert list(sink.warnings) == [first]  # on the same connection nobody asks

    await own.disconnect()
    await sink.deliver([entry])
    assert list(sink.warnings) == []

    await configure(client, {"appendonly": "no"})
    psutil.Process(private.processes()["redis"]).kill()  # and it comes back with its own settings

    async def delivers() -> bool:
        try:
            return not await sink.deliver([entry])
        except TransientRedisError:
            return False

    await wait_until(delivers, timeout_s=10)
    assert list(sink.warnings) == []
    assert [record.message for record in caplog.records] == [first]
    await own.disconnect()
