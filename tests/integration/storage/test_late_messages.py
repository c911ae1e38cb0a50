"""A message that could not be told in its time is never told: a gate must not open for what has long gone."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from support.folders import open_folder
from support.spooling import StateLog, image, publication
from support.storage_faults.judgement import Hearing, hearing
from support.storage_faults.load import CHANNEL
from support.storage_faults.private_servers import PrivateRedis
from support.waiting import wait_until

from detector_worker.core.clock import SystemClock
from detector_worker.core.outbox import Sink
from detector_worker.core.singleton_managers import CacheStateManager, ServiceStateManager
from detector_worker.storage.drainers import Drainers
from detector_worker.storage.redis_client import RedisClient
from detector_worker.storage.sinks import RedisSink
from detector_worker.storage.spool.spool import Spool
from detector_worker.storage.storage_reports import StorageReports

pytestmark = pytest.mark.faults

_MAX_AGE_S = 1.0


@pytest.fixture
async def redis() -> AsyncIterator[PrivateRedis]:
    with open_folder() as folder:
        async with PrivateRedis(folder / "redis") as redis:
            yield redis


@pytest.fixture
async def heard(redis: PrivateRedis) -> AsyncIterator[Hearing]:
    async with Redis(unix_socket_path=str(redis.socket)) as client, hearing(client) as heard:
        yield heard


@pytest.fixture
async def spool(redis: PrivateRedis, tmp_path: Path) -> AsyncIterator[Spool]:
    """A spool that is being emptied into that Redis."""
    spool, client = Spool(tmp_path / "spool.sqlite"), RedisClient(redis.url())
    await spool.start()
    drainers = Drainers(spool, [RedisSink(client, clock=SystemClock())], notify=StateLog())
    drainers.start()
    reports = StorageReports(ServiceStateManager(), CacheStateManager())
    counting = asyncio.create_task(reports.count(spool))
    yield spool
    counting.cancel()
    await drainers.stop(5.0)
    await client.disconnect()
    await spool.stop()


async def tell(spool: Spool, message: str, *, max_age_s: float = _MAX_AGE_S) -> None:
    await spool.accept([publication(message, channel=CHANNEL, message=message, max_age_s=max_age_s)])


async def expired(spool: Spool) -> int:
    return (await spool.backlog()).lost.get("expired", 0)


@pytest.mark.parametrize("is_frozen", [False, True], ids=["killed", "frozen"])
async def test_a_message_is_dropped_counted_and_told_while_redis_is_away(
    redis: PrivateRedis, heard: Hearing, spool: Spool, caplog: pytest.LogCaptureFixture, is_frozen: bool
) -> None:
    await tell(spool, "before")
    await wait_until(lambda: heard.times["before"])
    await (redis.freeze() if is_frozen else redis.kill())
    await tell(spool, "too late")
    await spool.accept([image("picture", key="picture")])

    async def dropped() -> bool:
        return await expired(spool) == 1

    await wait_until(dropped)  # Redis is still away: nobody had to ask for it
    away_s = 0.0 if is_frozen else time.monotonic()
    redis.thaw() if is_frozen else await redis.start()
    await wait_until(lambda: heard.connected_s > away_s)
    await tell(spool, "after", max_age_s=30.0)
    await wait_until(lambda: heard.times["after"], timeout_s=15)

    async def nothing_waits() -> bool:
        return not (await spool.backlog()).sinks[Sink.REDIS].entries

    await wait_until(nothing_waits)
    assert heard.times == {"before": 1, "after": 1}
    assert await expired(spool) == 1
    await wait_until(lambda: "not published: 1 since this was told last" in caplog.text)
