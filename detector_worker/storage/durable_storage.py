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
from detector_worker.storage.embedded_servers import EmbeddedServers, ServiceState
from detector_worker.storage.folder_lock import FolderLock
from detector_worker.storage.redis_client import RedisClient
from detector_worker.storage.sinks import PostgresqlSink, RedisSink
from detector_worker.storage.spool import Spool

__all__ = ["WORKER_LOCK", "DurableStorage"]

_log: Final = logging.getLogger(__name__)
WORKER_LOCK: Final = "worker.lock"
"""In the data folder; its holder publishes there where its servers are."""


class DurableStorage:
    """Where a worker keeps what must not be lost. Used on one event loop.

    Attributes:
        spool: What is accepted here is on disk, and reaches the servers whenever they can be reached.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        database: DatabaseConfig | None,
        redis_url: str | None,
        auto_migrate: bool,
        drain_s: float,
        notify_server: Callable[[ServiceState], None],
        notify_sink: Callable[[SinkState], None],
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            data_dir: The worker's folder; made where it is absent.
            database: Where PostgreSQL is; None: the worker's own is started.
            redis_url: Where Redis is; None: the worker's own is started.
            auto_migrate: Missing tables and columns may be added.
            drain_s: How long a stop may go on delivering, seconds.
            notify_server: Told changes of the worker's own servers, from their thread.
            notify_sink: Told changes of the deliveries, on the event loop.
        """
        self._data_dir = data_dir
        self._database_config, self._redis_url = database, redis_url
        self._auto_migrate, self._drain_s = auto_migrate, drain_s
        self._notify_server, self._notify_sink = notify_server, notify_sink
        self._lock = FolderLock(data_dir / WORKER_LOCK)
        self.spool = Spool(data_dir / "spool.sqlite")
        self._running = AsyncExitStack()

    async def start(self) -> None:
        """Start everything; what was left in the spool is delivered from now on.

        Raises:
            ServiceError: The folder cannot be used, is in use, or an own server does not start.
        """
        try:
            await self._start()
        except BaseException:
            await self._running.aclose()
            raise

    async def stop(self) -> int:
        """Deliver what can be delivered in a bounded time, stop everything; return what remains in the spool."""
        await self._drainers.stop(self._drain_s)
        backlog = await self.spool.backlog()
        await self._running.aclose()
        return sum(sink.entries for sink in backlog.sinks.values())

    async def _start(self) -> None:
        _make_folder(self._data_dir)
        self._lock.acquire()
        self._running.callback(self._lock.release)
        database, redis_url = await self._start_servers()
        self._lock.publish({"postgresql": _psql_address(database), "redis": _redis_cli_arguments(redis_url)})
        await self.spool.start()
        self._running.push_async_callback(self.spool.stop)
        manager = DatabaseManager(database, auto_migrate=self._auto_migrate)
        self._running.push_async_callback(manager.disconnect)
        client = RedisClient(redis_url)
        self._running.push_async_callback(client.disconnect)
        sinks = (
            PostgresqlSink(manager, auto_migrate=self._auto_migrate, clock=SystemClock()),
            RedisSink(client, clock=SystemClock()),
        )
        self._drainers = Drainers(self.spool, sinks, notify=self._notify_sink)
        self._drainers.start()
        self._running.push_async_callback(self._drainers.stop, 0.0)

    async def _start_servers(self) -> tuple[DatabaseConfig, str]:
        """Start own servers where no address was given; return where both servers are."""
        own_database, own_redis = self._database_config is None, self._redis_url is None
        if own_database or own_redis:
            servers = EmbeddedServers(
                self._data_dir, postgresql=own_database, redis=own_redis, notify=self._notify_server
            )
            await asyncio.to_thread(servers.start)
            self._running.push_async_callback(asyncio.to_thread, servers.stop)
        database = self._database_config or DatabaseConfig(
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
