"""The spool has no room left: what is dropped is counted, what is refused is told, and what remains is delivered."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from support.folders import open_folder
from support.spooling import StateLog
from support.storage_faults.dead_spools import integrity
from support.storage_faults.judgement import judge_rows
from support.storage_faults.load import TABLES, Ledger, VisitLoad
from support.storage_faults.private_servers import PrivatePostgresql, PrivateRedis, connected
from support.waiting import wait_until

from detector_worker.core.clock import SystemClock
from detector_worker.storage.database_manager import DatabaseManager
from detector_worker.storage.drainers import Drainers
from detector_worker.storage.redis_client import RedisClient
from detector_worker.storage.sinks import PostgresqlSink, RedisSink
from detector_worker.storage.spool.spool import Spool

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

_DISK_BYTES = 8 << 20
_QUOTA_BYTES = 4 << 20
_VISITS_PER_S = 600.0
_DROPS_WITHIN_S = 40.0
_LATER_S = 0.2
_MAX_AGE_S = 1.0
"""Messages are small and do not last; so many of them at once are not what is tested here."""
_DRAINED_WITHIN_S = 30.0


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 8 MiB that holds nothing."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ("/bin/mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(disk))
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing may be mounted here: the quota's test must do")
    yield disk
    subprocess.run(("/bin/umount", "--lazy", str(disk)), check=True)


async def test_a_spool_on_a_full_disk_drops_the_oldest_and_counts_it(folder: Path, small_disk: Path) -> None:
    await fill_and_drain(folder, Spool(small_disk / "spool.sqlite"), small_disk / "spool.sqlite")


async def test_a_spool_at_its_quota_drops_the_oldest_and_counts_it(folder: Path) -> None:
    path = folder / "spool.sqlite"
    await fill_and_drain(folder, Spool(path, quota_bytes=_QUOTA_BYTES), path)
    assert path.stat().st_size <= 2 * _QUOTA_BYTES


async def fill_and_drain(folder: Path, spool: Spool, path: Path) -> None:
    """Accept far more than there is room for while nobody takes it; then see where each entry has gone."""
    ledger = Ledger()
    load = VisitLoad(spool, _VISITS_PER_S, ledger.note, later_s=_LATER_S, max_age_s=_MAX_AGE_S)
    await spool.start()
    async with PrivatePostgresql(folder / "pg") as postgresql, PrivateRedis(folder / "redis") as redis:
        await postgresql.execute(*TABLES)
        await asyncio.gather(postgresql.kill(), redis.kill())
        async with draining(spool, postgresql, redis):
            await load_until_records_are_dropped(load, spool)
            await asyncio.gather(postgresql.start(), redis.start())
            await wait_until(lambda: is_empty(spool), timeout_s=_DRAINED_WITHIN_S)
        backlog = await spool.backlog()
        await spool.stop()
        async with connected(postgresql.config()) as database, Redis(unix_socket_path=str(redis.socket)) as client:
            problems = await judge_rows(database, ledger)
            written = await database.fetchval("SELECT count(*) FROM changes")
            last_visit = max(ledger.created_s, key=ledger.created_s.__getitem__)
            rows_of_last = await database.fetchval("SELECT count(*) FROM visits WHERE record_id = $1", last_visit)
            stored = await client.exists(*ledger.pictures)
            published = len([key async for key in client.scan_iter("detector_worker:delivered:*", count=1_000)])

    accepted = sum(load.accepted.values())
    assert accepted == backlog.accepted
    assert all("full" in error.what and error.mend for error in load.refused)
    assert backlog.dead_letters + sum(backlog.lost.values()) + written + stored + published == accepted
    assert backlog.lost["dropped_pictures"] == len(ledger.pictures) - stored > 0
    assert backlog.lost["dropped_records"] > 0
    assert problems == []
    assert rows_of_last == 1
    assert integrity(path) == "ok"


async def load_until_records_are_dropped(load: VisitLoad, spool: Spool) -> None:
    async def dropped() -> bool:
        return (await spool.backlog()).lost.get("dropped_records", 0) > 0

    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run(stopping))
        await wait_until(dropped, timeout_s=_DROPS_WITHIN_S)
        stopping.set()


async def is_empty(spool: Spool) -> bool:
    return not any(sink.entries for sink in (await spool.backlog()).sinks.values())


@asynccontextmanager
async def draining(spool: Spool, postgresql: PrivatePostgresql, redis: PrivateRedis) -> AsyncIterator[StateLog]:
    log, clock = StateLog(), SystemClock()
    database, client = DatabaseManager(postgresql.config(), auto_migrate=True), RedisClient(redis.url())
    sinks = (PostgresqlSink(database, auto_migrate=True, clock=clock), RedisSink(client, clock=clock))
    drainers = Drainers(spool, sinks, notify=log)
    drainers.start()
    try:
        yield log
    finally:
        await drainers.stop(5.0)
        await database.disconnect()
        await client.disconnect()
