"""What the storage can carry, with servers of its own: each measure has its yardstick in the same round."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import numpy as np
import uuid_utils
from redis.asyncio import Redis

from detector_worker.core.clock import SystemClock
from detector_worker.core.entities import FieldValue
from detector_worker.core.outbox import CreateRecord, Sink, SpoolEntry, StoreImage
from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager
from detector_worker.storage.drainers import Drainers
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.redis_client import RedisClient
from detector_worker.storage.sinks import DeliverySink, PostgresqlSink, RedisSink
from detector_worker.storage.spool.spool import Spool

__all__ = ["Bench", "open_bench"]

_ROWS: Final = 20_000
_PICTURES: Final = 2_000
_PICTURE_BYTES: Final = 30_000
_ACCEPTED_ROWS: Final = 10_000
_ACCEPTED_PICTURES: Final = 2_000
_WRITERS: Final = 100
"""As many visits end at the same time."""
_BACKLOG: Final = 100_000
_STREAM_PER_S: Final = 100
_IDLE_S: Final = 5.0
_AT_ONCE: Final = 100
_REST_S: Final = 2.0
"""After so long the drainers do not give way any more to those who accept."""
_COLUMNS: Final = {
    "record_id": "uuid primary key",
    "display_id": "text",
    "camera_id": "text",
    "captured_timestamp": "timestamptz",
    "session_id": "text",
    "track_id": "integer",
    "confidence": "real",
    "car_brand": "text",
}
_DRAINED_WITHIN_S: Final = 120.0


def _record() -> dict[str, FieldValue]:
    """A record as an archive's first action writes it."""
    return {
        "record_id": str(uuid_utils.uuid7()),
        "display_id": "display-001",
        "camera_id": "cam-001",
        "captured_timestamp": "2026-01-31T09:26:53.589Z",
        "session_id": str(uuid_utils.uuid7()),
        "track_id": 7,
        "confidence": 0.93,
        "car_brand": "Toyota",
    }


def _creation(record: dict[str, FieldValue]) -> SpoolEntry:
    record_id = str(record["record_id"])
    return SpoolEntry(f"{record_id}:create", record_id, time.time(), CreateRecord("drained", "record_id", record))


def _picture(content: bytes) -> SpoolEntry:
    record_id = str(uuid_utils.uuid7())
    delivery = StoreImage(f"drained:{record_id}", content, 3600, time.time(), "0" * 64)
    return SpoolEntry(f"{record_id}:image", record_id, time.time(), delivery)


@dataclass
class Bench:
    """A spool, and the two servers that it is drained to."""

    spool: Spool
    database: DatabaseManager
    redis: RedisClient
    plain: "asyncpg.Connection[Any]"
    plain_redis: Redis

    async def accepted_per_s(self, make: Callable[[], SpoolEntry], number: int) -> float:
        """Return how many entries are accepted per second by a hundred writers, each waiting for the disk."""
        entries = [make() for _ in range(number)]

        async def write(mine: Sequence[SpoolEntry]) -> None:
            for entry in mine:
                await self.spool.accept([entry])

        took_s = await _seconds(asyncio.gather(*(write(entries[n::_WRITERS]) for n in range(_WRITERS))))
        await self._drain(self._to_postgresql(), self._to_redis())
        return number / took_s

    async def accepted_records_per_s(self) -> float:
        """Return how many records are accepted per second."""
        return await self.accepted_per_s(lambda: _creation(_record()), _ACCEPTED_ROWS)

    async def accepted_images_per_s(self) -> float:
        """Return how many pictures of 30 KB are accepted per second."""
        content = _noise()
        return await self.accepted_per_s(lambda: _picture(content), _ACCEPTED_PICTURES)

    async def drained_rows(self) -> tuple[float, float]:
        """Return rows per second out of the spool into PostgreSQL, and by one plain ``executemany``."""
        rows = [_typed(_record()) for _ in range(_ROWS)]
        names = ", ".join(_COLUMNS)
        holes = ", ".join(f"${n}" for n in range(1, len(_COLUMNS) + 1))
        plain_s = await _seconds(self.plain.executemany(f"INSERT INTO plain ({names}) VALUES ({holes})", rows))  # noqa: S608 - our own names
        del rows  # neither way shall be held up by the other's leftovers
        await self._fill(_creation(_record()) for _ in range(_ROWS))
        drained_s = await _seconds(self._drain(self._to_postgresql()))
        await self.plain.execute("TRUNCATE plain, drained")
        return _ROWS / drained_s, _ROWS / plain_s

    async def drained_images(self) -> tuple[float, float]:
        """Return pictures of 30 KB per second out of the spool into Redis, and by redis-py's own pipelined SETs."""
        content = _noise()

        async def plain() -> None:
            for start in range(0, _PICTURES, 250):
                async with self.plain_redis.pipeline(transaction=False) as pipe:
                    for number in range(start, start + 250):
                        pipe.set(f"plain:{number}", content, ex=3600)
                    await pipe.execute()

        plain_s = await _seconds(plain())
        await self._fill(_picture(content) for _ in range(_PICTURES))
        drained_s = await _seconds(self._drain(self._to_redis()))
        await self.redis.pipeline([("FLUSHALL",)])
        return _PICTURES / drained_s, _PICTURES / plain_s

    async def acceptance_ms(self) -> dict[str, float]:
        """Return percentiles of the time that acceptance takes at 100 records a second: idle, and beside a backlog.

        Idle: each record is delivered at once. Beside: a hundred thousand rows that had waited are delivered.
        """
        idle = await self._stream(asyncio.sleep(_IDLE_S), self._to_postgresql())
        await self._fill(_creation(_record()) for _ in range(_BACKLOG))
        began_s = time.perf_counter()
        busy = await self._stream(self._until_few(), self._to_postgresql())
        took_s = time.perf_counter() - began_s
        await self.plain.execute("TRUNCATE drained")
        return {
            "idle_p50_ms": _percentile(idle, 50),
            "idle_p99_ms": _percentile(idle, 99),
            "draining_p50_ms": _percentile(busy, 50),
            "draining_p99_ms": _percentile(busy, 99),
            "backlog_rows_per_s": _BACKLOG / took_s,
        }

    async def _stream(self, until: Coroutine[Any, Any, None], sink: DeliverySink) -> list[float]:
        """Accept a steady stream of records while a sink is drained; return each one's time, seconds."""
        drainers = Drainers(self.spool, [sink], notify=lambda _: None)
        drainers.start()
        ending = asyncio.ensure_future(until)
        under_way: list[asyncio.Task[float]] = []
        began_s = time.perf_counter()
        while not ending.done():
            under_way.append(asyncio.create_task(_seconds(self.spool.accept([_creation(_record())]))))
            due_s = began_s + len(under_way) / _STREAM_PER_S
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        taken = await asyncio.gather(*under_way)
        await drainers.stop(_DRAINED_WITHIN_S)
        return taken

    async def _until_few(self) -> None:
        while (await self.spool.backlog()).sinks[Sink.POSTGRESQL].entries > _STREAM_PER_S:  # noqa: ASYNC110 - a count
            await asyncio.sleep(0.1)

    async def _fill(self, entries: Iterator[SpoolEntry]) -> None:
        while some := list(islice(entries, _AT_ONCE)):
            await self.spool.accept(some)
        await asyncio.sleep(_REST_S)

    async def _drain(self, *sinks: DeliverySink) -> None:
        drainers = Drainers(self.spool, sinks, notify=lambda _: None)
        drainers.start()
        await drainers.stop(_DRAINED_WITHIN_S)
        left = await self.spool.backlog()
        assert all(left.sinks[sink.sink].entries == 0 for sink in sinks), left
        assert left.dead_letters == 0, left

    def _to_postgresql(self) -> PostgresqlSink:
        return PostgresqlSink(self.database, auto_migrate=True, clock=SystemClock())

    def _to_redis(self) -> RedisSink:
        return RedisSink(self.redis, clock=SystemClock())


@asynccontextmanager
async def open_bench(folder: Path) -> AsyncIterator[Bench]:
    """Start servers and a spool in a folder that every account may pass through."""
    servers = EmbeddedServers(folder / "data")
    await asyncio.to_thread(servers.start)
    try:
        config = DatabaseConfig(
            host=str(servers.postgresql_socket_dir), database=servers.postgresql_database, user=servers.postgresql_user
        )
        spool = Spool(folder / "spool.sqlite")
        await spool.start()
        plain = await asyncpg.connect(host=config.host, user=config.user, database=config.database)
        plain_redis = Redis(unix_socket_path=str(servers.redis_socket))
        columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
        await plain.execute(f"CREATE TABLE plain ({columns}); CREATE TABLE drained ({columns})")
        async with (
            DatabaseManager(config, auto_migrate=True) as database,
            RedisClient(f"unix://{servers.redis_socket}") as redis,
        ):
            yield Bench(spool, database, redis, plain, plain_redis)
        await plain.close()
        await plain_redis.aclose()
        await spool.stop()
    finally:
        await asyncio.to_thread(servers.stop)


async def _seconds(work: Any) -> float:
    began_s = time.perf_counter()
    await work
    return time.perf_counter() - began_s


def _typed(record: dict[str, FieldValue]) -> tuple[object, ...]:
    """A record's values as the driver wants them for its own types."""
    captured_at = datetime.fromisoformat(str(record["captured_timestamp"]))
    typed = record | {"record_id": UUID(str(record["record_id"])), "captured_timestamp": captured_at}
    return tuple(typed[name] for name in _COLUMNS)


def _noise() -> bytes:
    return np.random.default_rng(1).bytes(_PICTURE_BYTES)


def _percentile(seconds: Sequence[float], percent: int) -> float:
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, math.ceil(len(ordered) * percent / 100) - 1)]
