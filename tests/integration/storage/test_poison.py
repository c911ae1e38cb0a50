"""A record that can never be written holds nobody up, and is written once its table was mended."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from support.spooling import StateLog, creation
from support.waiting import wait_until

from detector_worker.core.clock import SystemClock
from detector_worker.storage.database_manager import DatabaseManager
from detector_worker.storage.drainers import Drainers
from detector_worker.storage.sinks import PostgresqlSink
from detector_worker.storage.spool.desk import SpoolDesk
from detector_worker.storage.spool.room import DEFAULT_QUOTA_BYTES
from detector_worker.storage.spool.spool import Spool

_PROMISED_S = 1.0


@pytest.fixture
async def spool(database: DatabaseManager, tmp_path: Path) -> AsyncIterator[Spool]:
    """A spool that is being emptied into a table whose column ``seen`` is a number."""
    await database.execute_query("CREATE TABLE cars (record_id uuid PRIMARY KEY, seen int)")
    spool = Spool(tmp_path / "spool.sqlite")
    await spool.start()
    drainers = Drainers(spool, [PostgresqlSink(database, auto_migrate=True, clock=SystemClock())], notify=StateLog())
    drainers.start()
    yield spool
    await drainers.stop(5.0)
    await spool.stop()


async def test_a_poison_record_is_a_dead_letter_within_a_second_and_delivered_after_its_column_was_mended(
    database: DatabaseManager, spool: Spool, tmp_path: Path
) -> None:
    first, poison, good = (str(uuid4()) for _ in range(3))

    async def seen(record_id: str) -> object:
        row = await database.get_record("cars", record_id, "record_id")
        return row and row["seen"]

    async def dead_letters() -> int:
        return (await spool.backlog()).dead_letters

    await spool.accept([creation(first, seen=1)])  # makes the connection
    await wait_until(lambda: seen(first))

    await spool.accept([creation(poison, seen="a lorry"), creation(good, seen=3)])
    accepted_s = time.monotonic()
    await wait_until(dead_letters)
    buried_after_s = time.monotonic() - accepted_s
    await wait_until(lambda: seen(good))
    delivered_after_s = time.monotonic() - accepted_s

    await database.execute_query("ALTER TABLE cars ALTER COLUMN seen TYPE text")
    await asyncio.to_thread(retry_all, tmp_path / "spool.sqlite")
    await wait_until(lambda: seen(poison))

    print(f"\nburied after {buried_after_s:.2f} s, the next one there after {delivered_after_s:.2f} s")  # noqa: T201
    assert buried_after_s <= _PROMISED_S
    assert delivered_after_s <= _PROMISED_S
    assert await seen(poison) == "a lorry"
    assert await dead_letters() == 0


def retry_all(path: Path) -> None:
    """As an operator would with ``detector-worker spool retry --all``, beside the worker."""
    with SpoolDesk(path, quota_bytes=DEFAULT_QUOTA_BYTES) as desk:
        assert desk.retry(None) == 1
