"""What waits lies on the disk: a backlog takes no memory, neither while it grows nor while it is drained."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from support.folders import open_folder
from support.spooling import StateLog, image
from support.storage_faults.private_servers import PrivateRedis
from support.waiting import wait_until

from detector_worker.core.clock import SystemClock
from detector_worker.core.outbox import Sink
from detector_worker.storage.drainers import Drainers
from detector_worker.storage.redis_client import RedisClient
from detector_worker.storage.sinks import RedisSink
from detector_worker.storage.spool.spool import Spool

pytestmark = pytest.mark.faults

_PICTURE_BYTES = 100_000
_WARM_UP = 100
_PICTURES = 2_000
_BOUND_BYTES = 60 << 20
"""A third of the backlog: a few batches of 8 MiB, as they are read, packed and sent."""


@pytest.fixture
async def redis() -> AsyncIterator[PrivateRedis]:
    with open_folder() as folder:
        async with PrivateRedis(folder / "redis") as redis:
            yield redis


async def test_a_backlog_of_200_mb_takes_no_memory(redis: PrivateRedis, tmp_path: Path) -> None:
    spool, client, process = Spool(tmp_path / "spool.sqlite"), RedisClient(redis.url()), psutil.Process()
    await spool.start()
    drainers = Drainers(spool, [RedisSink(client, clock=SystemClock())], notify=StateLog())
    drainers.start()
    most_bytes = 0

    async def is_empty() -> bool:
        nonlocal most_bytes
        most_bytes = max(most_bytes, process.memory_info().rss)
        return not (await spool.backlog()).sinks[Sink.REDIS].entries

    async def accept(numbers: range) -> None:
        nonlocal most_bytes
        for number in numbers:
            await spool.accept([image(str(number), key=str(number), content=os.urandom(_PICTURE_BYTES))])
            most_bytes = max(most_bytes, process.memory_info().rss)

    await accept(range(_WARM_UP))
    await wait_until(is_empty)
    before_bytes, most_bytes = process.memory_info().rss, 0
    await redis.kill()
    await accept(range(_WARM_UP, _WARM_UP + _PICTURES))
    waiting_bytes = (await spool.backlog()).sinks[Sink.REDIS].size_bytes
    await redis.start()
    await wait_until(is_empty, timeout_s=30)
    await drainers.stop(5.0)
    await client.disconnect()
    await spool.stop()

    more_bytes = most_bytes - before_bytes
    print(f"\n{waiting_bytes >> 20} MiB waited, {more_bytes >> 20} MiB more memory")  # noqa: T201 - a measurement
    assert waiting_bytes >= _PICTURES * _PICTURE_BYTES
    assert more_bytes < _BOUND_BYTES
