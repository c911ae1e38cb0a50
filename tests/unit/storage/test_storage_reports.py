import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.spooling import creation, image, publication
from support.waiting import wait_until

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import Sink
from detector_worker.core.singleton_managers import CacheStateManager, ServiceStateManager
from detector_worker.storage.drainers import SinkState
from detector_worker.storage.spool.spool import Spool
from detector_worker.storage.storage_reports import StorageReports


@asynccontextmanager
async def counting(spool: Spool, queues: CacheStateManager) -> AsyncIterator[StorageReports]:
    reports = StorageReports(ServiceStateManager(), queues)
    task = asyncio.ensure_future(reports.count(spool))
    try:
        yield reports
    finally:
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_spool_that_cannot_be_read_is_reported_with_its_reason_and_counted_again_after_it(
    tmp_path: Path,
) -> None:
    queues = CacheStateManager()
    broken, sound = Spool(tmp_path / "broken.db"), Spool(tmp_path / "sound.db")
    await sound.start()
    await sound.accept([creation("a"), image("a", key="k"), publication("a", channel="c", message="m")])

    for spool, ok in ((broken, False), (sound, True)):
        queues.remove("spool")
        async with counting(spool, queues):
            await wait_until(lambda: queues.get("spool"))
            state = queues.get("spool")
            assert state is not None
            assert state.ok is ok
            assert ("not running" in (state.reason or "")) is not ok

    postgresql, redis = queues.get(Sink.POSTGRESQL), queues.get(Sink.REDIS)
    assert postgresql is not None
    assert redis is not None
    assert (postgresql.records, redis.images, redis.messages) == (1, 1, 1)
    assert time.time() - 5 < (postgresql.oldest_at or 0) <= time.time()
    assert queues.spool is not None
    assert queues.spool.size_bytes == postgresql.size_bytes + redis.size_bytes > 0
    await sound.stop()


async def test_what_is_lost_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queues, spool = CacheStateManager(), Spool(tmp_path / "spool.db", quota_bytes=6_000)
    await spool.start()
    with caplog.at_level(logging.WARNING):
        async with counting(spool, queues):
            await wait_until(lambda: queues.spool)
            for number in range(3):
                await spool.accept([image(str(number), key="k", content=bytes(2_000))])
            await spool.accept([publication("a", channel="c", message="m", max_age_s=0.0)])
            await spool.drop_expired()
            with pytest.raises(ServiceError):
                await spool.accept([image("large", key="k", content=bytes(7_000))])
            await wait_until(lambda: queues.spool is not None and queues.spool.refused)
            await asyncio.sleep(1.1)  # one more count

    told = [record.getMessage() for record in caplog.records]
    assert all(text.endswith(": 1 since this was told last") for text in told)
    assert [sum(word in text for text in told) for word in ("pictures", "maximum age", "refused")] == [1, 1, 1]
    assert len(told) == 3
    await spool.stop()


def test_a_sink_that_is_back_keeps_its_counts_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    queues = CacheStateManager()
    reports = StorageReports(ServiceStateManager(), queues)

    with caplog.at_level(logging.WARNING):
        reports.note_sink(SinkState(Sink.REDIS, False, "refused", 3, 0))
        down = queues.get(Sink.REDIS)
        reports.note_sink(SinkState(Sink.REDIS, True, None, 4, 0, ("no persistence",)))

    up = queues.get(Sink.REDIS)
    assert down is not None
    assert up is not None
    assert (down.ok, down.reason) == (False, "refused")
    assert (up.ok, up.reason, up.delivered, up.warnings) == (True, None, 4, ("no persistence",))
    assert [record.getMessage() for record in caplog.records] == ["Delivery to redis goes on"]


def test_a_dead_letter_is_no_good_sign_until_something_is_delivered_after_it() -> None:
    queues = CacheStateManager()
    reports = StorageReports(ServiceStateManager(), queues)
    states = []

    for reason in (None, "dead letter a:create: no such table", None):
        reports.note_sink(SinkState(Sink.POSTGRESQL, True, reason, 1, 1))
        states.append(queues.get(Sink.POSTGRESQL))

    assert [state.ok for state in states if state is not None] == [True, False, True]
