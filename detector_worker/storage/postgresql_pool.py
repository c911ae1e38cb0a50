"""One pool of connections to PostgreSQL, made at first use.

It is thrown away whole where a connection is lost or a call is past its deadline: a polite cancel would wait for a
server that may be frozen. What comes next gets new connections.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from detector_worker.core.exceptions import DatabaseError
from detector_worker.storage.faults import TransientDatabaseError, postgresql_error
from detector_worker.storage.schema_migrations import bring_up_to_date

__all__ = ["DatabaseConfig", "DatabaseTimeouts", "Operation", "PostgresqlPool"]

T = TypeVar("T")
Operation = Callable[[PoolConnectionProxy], Awaitable[T]]

_DRIVER_FAULTS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
_CLOSE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """Where PostgreSQL is, and as whom to go there; ``host`` may be the folder of a Unix socket."""

    host: str
    port: int = 5432
    database: str = "detector_worker"
    user: str = "detector_worker"
    password: str | None = field(default=None, repr=False)
    connection_pool_size: int = 8

    def __str__(self) -> str:
        return f"PostgreSQL {self.host}:{self.port}/{self.database}"


@dataclass(frozen=True, slots=True)
class DatabaseTimeouts:
    """How long it may take to connect, to run one statement and to run a whole operation, seconds."""

    connect_s: float = 5.0
    statement_s: float = 10.0
    operation_s: float = 15.0

    def server_settings(self) -> dict[str, str]:
        """What each connection asks of the server: to end a statement before we do, and a dead worker's locks."""
        statement_ms = max(100, int(self.statement_s * 1000) - 1000)
        return {
            "application_name": "detector-worker",
            "timezone": "UTC",
            "statement_timeout": str(statement_ms),
            "lock_timeout": str(max(50, statement_ms // 2)),
            "idle_in_transaction_session_timeout": "30000",
            "tcp_keepalives_idle": "30",
            "tcp_keepalives_interval": "5",
            "tcp_keepalives_count": "3",
        }


class PostgresqlPool:
    """Carries out operations, each in one transaction and within its time. Every coroutine runs on one event loop."""

    def __init__(self, config: DatabaseConfig, *, auto_migrate: bool, timeouts: DatabaseTimeouts) -> None:
        """``auto_migrate``: this account may bring the worker's own schema up to date."""
        self._config, self._auto_migrate, self._timeouts = config, auto_migrate, timeouts
        self._opening = asyncio.Lock()
        self._pool: asyncpg.Pool | None = None

    def abort(self) -> None:
        """Cut all connections at once; calls under way fail, the next one connects anew."""
        self._throw_away(self._pool)

    async def run(self, operation: Operation[T]) -> T:
        """Carry out an operation in one transaction, within the deadline, or raise `DatabaseError`.

        `TransientDatabaseError`: try again later; the pool was thrown away where ``connection_lost``.
        """
        limit_s = self._timeouts.operation_s
        pool: asyncpg.Pool | None = None

        def cut() -> None:
            self._throw_away(pool)

        # The timer cuts the connections, which ends the call; the timeout a second later is for what is left then.
        timer = asyncio.get_running_loop().call_later(limit_s, cut)
        try:
            async with asyncio.timeout(limit_s + 1):
                pool = await self._open_pool()
                async with pool.acquire() as connection, connection.transaction():
                    return await operation(connection)
        except (*_DRIVER_FAULTS, DatabaseError) as exc:
            error = postgresql_error(exc, where=str(self._config))
            if isinstance(error, TransientDatabaseError) and error.connection_lost:
                cut()
            if error is exc:
                raise
            raise error from exc
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Close all connections, within two seconds."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        timer = asyncio.get_running_loop().call_later(_CLOSE_S, pool.terminate)
        try:
            await pool.close()
        except _DRIVER_FAULTS:
            pool.terminate()
        finally:
            timer.cancel()

    def _throw_away(self, pool: asyncpg.Pool | None) -> None:
        if pool is not None:
            if self._pool is pool:  # else somebody has done so before, and there may be a new one
                self._pool = None
            pool.terminate()

    async def _open_pool(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                pool = self._new_pool()
                try:
                    await pool  # makes no connection yet
                    async with pool.acquire() as connection:
                        await bring_up_to_date(connection, allowed=self._auto_migrate, where=str(self._config))
                    self._pool = pool
                except (*_DRIVER_FAULTS, DatabaseError) as exc:
                    raise self._not_opened(exc) from exc
                finally:
                    if self._pool is not pool:
                        pool.terminate()
            return self._pool

    def _not_opened(self, exc: Exception) -> TransientDatabaseError:
        """Whatever keeps us from opening the pool is the server's state: no entry shall be given up for it."""
        error = postgresql_error(exc, where=str(self._config))
        if isinstance(error, TransientDatabaseError):
            return error
        return TransientDatabaseError(error.what, where=error.where, mend="Check what the worker's account may do.")

    def _new_pool(self) -> asyncpg.Pool:
        config = self._config
        return asyncpg.create_pool(
            host=config.host,
            port=config.port,
            database=config.database,
            user=config.user,
            password=config.password,
            min_size=0,
            max_size=config.connection_pool_size,
            timeout=self._timeouts.connect_s,
            command_timeout=self._timeouts.statement_s,
            server_settings=self._timeouts.server_settings(),
        )
