"""A worker's storage and nothing else, in a process of its own, under a load; prints each key once it is accepted.

Usage: ``python -m support.storage_faults.storage_process <data folder> <PostgreSQL's socket folder> <Redis' address>``
"""

import asyncio
import os
import sys
from pathlib import Path

from support.storage_faults.load import VisitLoad

from detector_worker.core.config import Configuration
from detector_worker.storage.configured_storage import storage_for
from detector_worker.storage.durable_storage import DurableStorage
from detector_worker.storage.embedded.server_kinds import PostgresqlServer

__all__ = ["new_storage"]

_VISITS_PER_S = 200.0
_LATER_S = 0.2


def new_storage(data_dir: Path, postgresql_host: str, redis_url: str) -> DurableStorage:
    """Make the storage of a worker that uses these servers."""
    database = {"host": postgresql_host, "user": PostgresqlServer.user, "database": PostgresqlServer.database}
    server = {"data_dir": str(data_dir)}
    configuration = Configuration.load(
        None, overrides={"server": server, "database": database, "redis": {"url": redis_url}}
    )
    return storage_for(configuration, notify_server=lambda *_: None, notify_sink=lambda _: None)


async def _main() -> None:
    data_dir, postgresql_host, redis_url = sys.argv[1:]
    storage = new_storage(Path(data_dir), postgresql_host, redis_url)
    await storage.start()
    load = VisitLoad(storage.spool, _VISITS_PER_S, lambda key: os.write(1, f"{key}\n".encode()), later_s=_LATER_S)
    await load.run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(_main())
