"""Figures of the storage, printed (``-s``); only ratios within one run can fail."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from support.spooling import StateLog, creation, image

from detector_worker.core.clock import SystemClock
from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager
from detector_worker.storage.drainers import Drainers
from detector_worker.storage.redis_client import RedisClient
from detector_worker.storage.sinks import DeliverySink, PostgresqlSink, RedisSink
from detector_worker.storage.spool import Spool

pytestmark = pytest.mark.performance

ROWS = 10_000
IMAGES = 1_000
IMAGE_BYTES = 30_000
AT_ONCE = 100


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path / "spool.db")
    await spool.start()
    yield spool
    await spool.stop()


async def seconds(work: Awaitable[object]) -> float:
    began_s = time.perf_counter()
    await work
    return time.perf_counter() - began_s


async def drain(spool: Spool, sink: DeliverySink) -> None:
    drainers = Drainers(spool, [sink], notify=StateLog())
    drainers.start()
    await drainers.stop(50)
    assert (await spool.backlog()).sinks[sink.sink].entries == 0


async def test_many_writers_share_the_disk(spool: Spool) -> None:
    async def accept(number: int) -> None:
        for _ in range(number):
            await spool.accept([creation(str(uuid4()), brand="a")])

    alone_s = await seconds(accept(300)) / 300
    together_s = await seconds(asyncio.gather(*(accept(50) for _ in range(AT_ONCE)))) / (50 * AT_ONCE)

    print(f"\naccepted alone {1 / alone_s:,.0f}/s, {AT_ONCE} at once {1 / together_s:,.0f}/s")  # noqa: T201
    assert together_s < alone_s / 2


async def test_rows_drained_against_plain_executemany(
    spool: Spool, database: DatabaseManager, database_config: DatabaseConfig
) -> None:
    await database.execute_query("CREATE TABLE cars (record_id uuid PRIMARY KEY, brand text)")
    await database.execute_query("CREATE TABLE plain (record_id uuid PRIMARY KEY, brand text)")
    names = [str(uuid4()) for _ in range(ROWS)]
    await spool.accept([creation(name, brand="a") for name in names])
    connection = await asyncpg.connect(
        host=database_config.host, user=database_config.user, database=database_config.database
    )

    plain_s = await seconds(
        connection.executemany("INSERT INTO plain VALUES ($1, $2)", [(name, "a") for name in names])
    )
    drained_s = await seconds(drain(spool, PostgresqlSink(database, auto_migrate=True, clock=SystemClock())))

    await connection.close()
    print(f"\n{ROWS / drained_s:,.0f} rows/s drained, ratio {plain_s / drained_s:.2f}")  # noqa: T201
    assert plain_s / drained_s > 0.05


async def test_images_drained_against_plain_pipelines(spool: Spool, redis_client: RedisClient) -> None:
    content = bytes(IMAGE_BYTES)
    await spool.accept([image(str(number), key=f"a{number}", content=content) for number in range(IMAGES)])

    async def plain() -> None:
        for start in range(0, IMAGES, 250):
            await redis_client.pipeline([("SET", f"b{n}", content, "EX", 60) for n in range(start, start + 250)])

    plain_s = await seconds(plain())
    drained_s = await seconds(drain(spool, RedisSink(redis_client, clock=SystemClock())))

    print(f"\n{IMAGES / drained_s:,.0f} images/s drained, ratio {plain_s / drained_s:.2f}")  # noqa: T201
    assert plain_s / drained_s > 0.1
