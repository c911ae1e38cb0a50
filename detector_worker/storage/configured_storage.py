"""The storage that a configuration asks for."""

from collections.abc import Callable

from detector_worker.core.clock import SystemClock
from detector_worker.core.config import Configuration
from detector_worker.core.settings import MIB
from detector_worker.storage.database_manager import DatabaseConfig
from detector_worker.storage.drainers import SinkState
from detector_worker.storage.durable_storage import DurableStorage
from detector_worker.storage.embedded.embedded_servers import Notify
from detector_worker.storage.postgresql.tls import TlsConfig
from detector_worker.storage.redis_client import RedisTls
from detector_worker.storage.session_cache import SessionCacheManager
from detector_worker.storage.sessions import Sessions

__all__ = ["sessions_for", "storage_for"]


def storage_for(
    configuration: Configuration, *, notify_server: Notify, notify_sink: Callable[[SinkState], None]
) -> DurableStorage:
    """Make the storage that a configuration asks for."""
    database, password = configuration.database, configuration.database.password
    redis = configuration.redis
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
            tls=TlsConfig(database.sslmode, database.sslrootcert, database.sslcert, database.sslkey),
        ),
        redis_url=redis.url.get_secret_value() if redis.url else None,
        redis_tls=RedisTls(
            redis.tls_ca_file, redis.tls_cert_file, redis.tls_key_file, verify_names=redis.tls_verify_names
        ),
        auto_migrate=database.auto_migrate,
        quota_bytes=configuration.spool.quota_mb * MIB,
        drain_s=configuration.spool.drain_seconds,
        notify_server=notify_server,
        notify_sink=notify_sink,
    )


def sessions_for(configuration: Configuration, storage: DurableStorage) -> Sessions:
    """Make the sessions that a configuration asks for, to be kept in the spool's file."""
    settings, clock = configuration.sessions, SystemClock()
    max_bytes, ttl_s = settings.max_memory_mb * MIB, settings.ttl_seconds
    caches = SessionCacheManager(max_entries=settings.max_entries, max_bytes=max_bytes, ttl_s=ttl_s, clock=clock)
    return Sessions(storage.spool, caches, ttl_s=ttl_s, clock=clock)
