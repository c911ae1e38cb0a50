"""Everything that keeps data, joined: the folder's lock, the servers, the spool, the drainers."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from detector_worker.core.addresses import Address
from detector_worker.core.clock import SystemClock
from detector_worker.core.exceptions import ServiceError
from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager
from detector_worker.storage.drainers import Drainers, SinkState
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers, Notify
from detector_worker.storage.folder_lock import FolderLock
from detector_worker.storage.redis_client import RedisClient, RedisTls
from detector_worker.storage.sinks import PostgresqlSink, RedisSink
from detector_worker.storage.spool.backlog import Backlog
from detector_worker.storage.spool.room import DEFAULT_QUOTA_BYTES
from detector_worker.storage.spool.spool import Spool

__all__ = ["SPOOL_FILE", "WORKER_LOCK", "DurableStorage"]

_log: Final = logging.getLogger(__name__)
_COUNT_S: Final = 5.0
SPOOL_FILE: Final = "spool.sqlite"
"""In the data folder."""
WORKER_LOCK: Final = "worker.lock"
"""In the data folder; its holder publishes there where its servers are."""


class DurableStorage:
    """Where a worker keeps what must not be lost. Used on one event loop.

    What `spool` accepts is on disk, and reaches the servers whenever they can be reached.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        database: DatabaseConfig | None,
        redis_url: str | None,
        redis_tls: RedisTls | None = None,
        auto_migrate: bool | None,
        quota_bytes: int = DEFAULT_QUOTA_BYTES,
        drain_s: float,
        notify_server: Notify,
        notify_sink: Callable[[SinkState], None],
    ) -> None:
        """Prepare; nothing is started yet.

        ``database`` or ``redis_url`` None: the worker's own server is started. ``auto_migrate``: as the setting.
        ``quota_bytes``: what may wait on disk. ``drain_s``: how long a stop may go on delivering. ``notify_server`` is
        called from the servers' thread, ``notify_sink`` on the event loop.
        """
        self._data_dir = data_dir
        self._database, self._redis_url, self._redis_tls = database, redis_url, redis_tls
        self._auto_migrate, self._drain_s = auto_migrate, drain_s
        self._notify_server, self._notify_sink = notify_server, notify_sink
        self.spool = Spool(data_dir / SPOOL_FILE, quota_bytes=quota_bytes)
        self._running = AsyncExitStack()

    async def start(self) -> None:
        """Start everything; what was left in the spool is delivered from now on.

        ServiceError: the folder cannot be used, is in use, or an own server does not start.
        """
        async with AsyncExitStack() as running:
            await self._start(running)
            self._running = running.pop_all()

    async def stop(self) -> Backlog | None:
        """Deliver what can be delivered in a bounded time, stop everything; return what remains in the spool.

        None: it cannot be counted, which was logged.
        """
        async with self._running:
            await self._drainers.stop(self._drain_s)
            try:
                async with asyncio.timeout(_COUNT_S):
                    return await self.spool.backlog()
            except (ServiceError, TimeoutError) as exc:  # a failing disk, or one that hangs
                _log.error("What remains in the spool cannot be counted: %s", exc)
                return None

    async def _start(self, running: AsyncExitStack) -> None:
        _make_folder(self._data_dir)
        lock = FolderLock(self._data_dir / WORKER_LOCK)
        lock.acquire()
        running.callback(lock.release)
        database, redis_url = await self._start_servers(running)
        lock.publish({"postgresql": _psql_address(database), "redis": _redis_cli_arguments(redis_url)})
        await self.spool.start()
        running.push_async_callback(self.spool.stop)
        manager = DatabaseManager(database, auto_migrate=self._auto_migrate is not False)
        client = RedisClient(redis_url, tls=self._redis_tls)
        running.push_async_callback(manager.disconnect)
        running.push_async_callback(client.disconnect)
        clock = SystemClock()
        adds_tables = self._database is None if self._auto_migrate is None else self._auto_migrate
        sinks = (PostgresqlSink(manager, auto_migrate=adds_tables, clock=clock), RedisSink(client, clock=clock))
        self._drainers = Drainers(self.spool, sinks, notify=self._notify_sink)
        self._drainers.start()
        running.push_async_callback(self._drainers.stop, 0.0)

    async def _start_servers(self, running: AsyncExitStack) -> tuple[DatabaseConfig, str]:
        """Start own servers where no address was given; return where both servers are."""
        own_database, own_redis = self._database is None, self._redis_url is None
        if own_database or own_redis:
            servers = EmbeddedServers(
                self._data_dir, postgresql=own_database, redis=own_redis, notify=self._notify_server
            )
            await asyncio.to_thread(servers.start)
            running.push_async_callback(asyncio.to_thread, servers.stop)
        database = self._database or DatabaseConfig(
            host=str(servers.postgresql_socket_dir),
            database=servers.postgresql_database,
            user=servers.postgresql_user,
        )
        return database, self._redis_url or f"unix://{servers.redis_socket}"


def _make_folder(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ServiceError(
            f"The data folder cannot be made: {exc.strerror}",
            where=str(data_dir),
            mend="Choose another one with --data-dir, or give the worker's user write access.",
        ) from exc


def _psql_address(config: DatabaseConfig) -> str:
    """Return what psql takes; never a password."""
    return f"host={config.host} port={config.port} dbname={config.database} user={config.user}"


def _redis_cli_arguments(url: str) -> str:
    """Return what redis-cli takes; never a password."""
    if url.startswith("unix://"):
        return f"-s {url.removeprefix('unix://').partition('?')[0]}"
    return f"-u {Address.parse(url, frozenset({'redis', 'rediss'}))}"
