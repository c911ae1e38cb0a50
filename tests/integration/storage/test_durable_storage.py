from pathlib import Path

import pytest
from support.spooling import StateLog, creation
from support.waiting import wait_until

from detector_worker.core.outbox import EnsureTables, SpoolEntry
from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager
from detector_worker.storage.durable_storage import WORKER_LOCK, DurableStorage
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.folder_lock import FolderLock


def new_storage(
    folder: Path, servers: EmbeddedServers, database: DatabaseConfig, *, auto_migrate: bool | None
) -> DurableStorage:
    return DurableStorage(
        folder,
        database=database,
        redis_url=f"unix://{servers.redis_socket}",
        auto_migrate=auto_migrate,
        drain_s=1.0,
        notify_server=lambda *_: None,
        notify_sink=StateLog(),
    )


async def test_a_stop_with_a_failing_spool_still_releases_everything(
    tmp_path: Path, servers: EmbeddedServers, database_config: DatabaseConfig
) -> None:
    storage = new_storage(tmp_path, servers, database_config, auto_migrate=True)
    await storage.start()
    await storage.spool.accept([creation("a")])
    await storage.spool.stop()

    assert await storage.stop() is None

    lock = FolderLock(tmp_path / WORKER_LOCK)
    lock.acquire()
    lock.release()


@pytest.mark.parametrize(("auto_migrate", "adds"), [(None, False), (False, False), (True, True)])
async def test_a_foreign_database_gets_an_archives_tables_only_where_that_is_set(
    auto_migrate: bool | None, adds: bool, tmp_path: Path, servers: EmbeddedServers, database_config: DatabaseConfig
) -> None:
    storage = new_storage(tmp_path, servers, database_config, auto_migrate=auto_migrate)
    await storage.start()
    tables = EnsureTables({"trucks": {"record_id": "uuid"}})
    await storage.spool.accept([SpoolEntry("tables:1", "tables:1", 0.0, tables)])

    async def is_empty() -> bool:
        return (await storage.spool.backlog()).entries == 0

    await wait_until(is_empty)
    await storage.stop()
    async with DatabaseManager(database_config, auto_migrate=False) as database:
        found = await database.execute_query("SELECT to_regclass('trucks') IS NOT NULL AS found")
    assert found == [{"found": adds}]
