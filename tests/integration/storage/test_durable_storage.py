from pathlib import Path

from support.spooling import StateLog, creation

from detector_worker.storage.database_manager import DatabaseConfig
from detector_worker.storage.durable_storage import WORKER_LOCK, DurableStorage
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.folder_lock import FolderLock


async def test_a_stop_with_a_failing_spool_still_releases_everything(
    tmp_path: Path, servers: EmbeddedServers, database_config: DatabaseConfig
) -> None:
    storage = DurableStorage(
        tmp_path,
        database=database_config,
        redis_url=f"unix://{servers.redis_socket}",
        auto_migrate=True,
        drain_s=1.0,
        notify_server=lambda *_: None,
        notify_sink=StateLog(),
    )
    await storage.start()
    await storage.spool.accept([creation("a")])
    await storage.spool.stop()

    assert await storage.stop() is None

    lock = FolderLock(tmp_path / WORKER_LOCK)
    lock.acquire()
    lock.release()
