"""The storage that a configuration asks for."""

from collections.abc import Callable

from detector_worker.core.config import Configuration
from detector_worker.storage.database_manager import DatabaseConfig
from detector_worker.storage.drainers import SinkState
from detector_worker.storage.durable_storage import DurableStorage
from detector_worker.storage.embedded_servers import Notify

__all__ = ["storage_for"]


def storage_for(
    configuration: Configuration, *, notify_server: Notify, notify_sink: Callable[[SinkState], None]
) -> DurableStorage:
    """Make the storage that a configuration asks for."""
    database, password = configuration.database, configuration.database.password
    return DurableStorage(
        configuration.server.data_dir,
        database=None
        if database.host is None
        else DatabaseConfig(
            host=database.host,
            port=database.port,
            database=database.database,
            user=database.user,
            password=password.get_secret_value() if password else None,
            connection_pool_size=database.connection_pool_size,
        ),
        redis_url=configuration.redis.url.get_secret_value() if configuration.redis.url else None,
        auto_migrate=database.auto_migrate,
        drain_s=configuration.spool.drain_seconds,
        notify_server=notify_server,
        notify_sink=notify_sink,
    )
