import asyncio
from pathlib import Path

from support.spooling import creation
from support.waiting import wait_until

from detector_worker.core.outbox import Sink
from detector_worker.core.singleton_managers import CacheStateManager, ServiceStateManager
from detector_worker.storage.spool import Spool
from detector_worker.storage.storage_reports import StorageReports


async def test_a_spool_that_cannot_be_read_is_reported_with_its_reason_and_counted_again_after_it(
    tmp_path: Path,
) -> None:
    queues = CacheStateManager()
    broken, sound = Spool(tmp_path / "broken.db"), Spool(tmp_path / "sound.db")
    await sound.start()
    await sound.accept([creation("a")])

    for spool, ok in ((broken, False), (sound, True)):
        queues.remove("spool")
        task = asyncio.ensure_future(StorageReports(ServiceStateManager(), queues).count(spool))
        await wait_until(lambda: queues.get("spool"))
        state = queues.get("spool")
        assert state is not None
        assert state.ok is ok
        assert ("not running" in (state.reason or "")) is not ok
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    records = queues.get(Sink.POSTGRESQL)
    assert records is not None
    assert records.records == 1
    await sound.stop()
