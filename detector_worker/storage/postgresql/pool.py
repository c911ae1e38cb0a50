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

from detector_worker.core.exceptions import ConfigurationError, DatabaseError
from detector_worker.storage.faults import OutdatedTablesError, TransientDatabaseError, postgresql_error
from detector_worker.storage.postgresql.catalogue import Table, Tables
from detector_worker.storage.postgresql.schema_migrations import bring_up_to_date
from detector_worker.storage.postgresql.tls import TlsConfig

__all__ = ["DatabaseConfig", "DatabaseTimeouts", "Operation", "PostgresqlPool"]

T = TypeVar("T")
Operation = Callable[[PoolConnectionProxy, Tables], Awaitable[T]]
"""Work on one connection inside a transaction; it may be carried out twice, the first time without effect."""

_DRIVER_FAULTS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
_CLOSE_S: Final = 2.0
_ENDING_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """Where PostgreSQL is, and as whom to go there; ``host`` may be the folder of a Unix socket."""

    host: str
    port: int = 5432
    database: str = "detector_worker"
    user: str = "detector_worker"
    password: str | None = field(default=None, repr=False)
    connection_pool_size: int = 8
    tls: TlsConfig = field(default_factory=TlsConfig)

    def __str__(self) -> str:
        return f"PostgreSQL {self.host}:{self.port}/{self.database}"


@dataclass(frozen=True, slots=True)
class DatabaseTimeouts:
    """How long it may take to connect, to run one statement and to run a whole operation, seconds."""

    connect_s: float = 4.0
    statement_s: float = 5.0
    operation_s: float = 8.0

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


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A pool, and what is known of the database's tables for as long as it lives."""

    pool: asyncpg.Pool
    known: dict[str, Table] = field(default_factory=dict)


class PostgresqlPool:
    """Carries out operations, each in one transaction and within its time. Every coroutine runs on one event loop."""

    def __init__(self, config: DatabaseConfig, *, auto_migrate: bool, timeouts: DatabaseTimeouts) -> None:
        """``auto_migrate``: this account may bring the worker's own schema up to date.

        Raises:
            ConfigurationError: The settings of TLS cannot be used.
        """
        self._config, self._auto_migrate, self._timeouts = config, auto_migrate, timeouts
        self._lock = asyncio.Lock()
        self._opened: _Opened | None = None
        self._opening: asyncpg.Pool | None = None
        config.tls.for_host(config.host)  # now, for whoever made a mistake sits in front of it now

    def abort(self) -> None:
        """Cut all connections at once; calls under way fail, the next one connects anew."""
        self._throw_away(self._opened)

    async def run(self, operation: Operation[T]) -> T:
        """Carry out an operation in one transaction, or raise `DatabaseError`, at most 1 s past ``operation_s``.

        `TransientDatabaseError`: try again later; the pool was thrown away where ``connection_lost``.
        """
        limit_s = self._timeouts.operation_s
        opened: _Opened | None = None

        def cut() -> None:
            self._throw_away(opened)

        # The timer cuts the connections, which ends the call; the timeout after it is for what is left then, such as
        # a connection that was still being made.
        timer = asyncio.get_running_loop().call_later(limit_s, cut)
        try:
            async with asyncio.timeout(limit_s + _ENDING_S):
                opened = await self._open_pool()
                return await self._carry_out(opened, operation)
        except (*_DRIVER_FAULTS, DatabaseError) as exc:
            error = self._translated(exc)
            if opened is not None and isinstance(error, TransientDatabaseError) and error.connection_lost:
                cut()
            if error is exc:
                raise
            raise error from exc
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Close all connections, within two seconds."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        timer = asyncio.get_running_loop().call_later(_CLOSE_S, opened.pool.terminate)
        try:
            await opened.pool.close()
        except _DRIVER_FAULTS:
            opened.pool.terminate()
        finally:
            timer.cancel()

    async def _carry_out(self, opened: _Opened, operation: Operation[T]) -> T:
        """Carry it out; where it fails for good, once more with a fresh look at the tables that it asked for.

        A table may have been altered since it was looked up, perhaps while we waited for its lock.
        """
        async with opened.pool.acquire() as connection:
            tables = Tables(connection, opened.known)
            try:
                async with connection.transaction():
                    return await operation(connection, tables)
            except (asyncpg.PostgresError, DatabaseError) as exc:
                error = self._translated(exc)
                transient = isinstance(error, TransientDatabaseError) and not isinstance(error, OutdatedTablesError)
                if transient or not tables.were_asked_for:
                    raise
            tables.forget()
            async with connection.transaction():
                return await operation(connection, Tables(connection, opened.known))

    def _throw_away(self, opened: _Opened | None) -> None:
        if opened is None:  # all that can be under way is to open one
            if self._opening is not None:
                self._opening.terminate()
            return
        if self._opened is opened:  # else somebody has done so before, and there may be a new one
            self._opened = None
        opened.pool.terminate()

    async def _open_pool(self) -> _Opened:
        async with self._lock:
            if self._opened is None:
                try:
                    self._opening = await self._new_pool()  # makes no connection yet
                    async with self._opening.acquire() as connection:
                        await bring_up_to_date(connection, allowed=self._auto_migrate, where=str(self._config))
                    self._opened = _Opened(self._opening)
                except (*_DRIVER_FAULTS, DatabaseError, ConfigurationError) as exc:
                    raise self._not_opened(exc) from exc
                finally:
                    if self._opened is None and self._opening is not None:
                        self._opening.terminate()
                    self._opening = None
            return self._opened

    def _not_opened(self, exc: Exception) -> TransientDatabaseError:
        """Whatever keeps us from opening the pool is a state that may change: no entry shall be given up for it."""
        if isinstance(exc, ConfigurationError):  # the files of TLS may be replaced at any time
            return TransientDatabaseError(exc.what, where=exc.where, mend=exc.mend)
        error = self._translated(exc)
        if isinstance(error, TransientDatabaseError):
            return error
        return TransientDatabaseError(error.what, where=error.where, mend="Check what the worker's account may do.")

    def _translated(self, exc: Exception) -> DatabaseError:
        return postgresql_error(exc, where=str(self._config))

    async def _new_pool(self) -> asyncpg.Pool:
        config = self._config
        return await asyncpg.create_pool(
            host=config.host,
            port=config.port,
            database=config.database,
            user=config.user,
            password=config.password,
            ssl=await asyncio.to_thread(config.tls.for_host, config.host),
            min_size=0,
            max_size=config.connection_pool_size,
            timeout=self._timeouts.connect_s,
            command_timeout=self._timeouts.statement_s,
            server_settings=self._timeouts.server_settings(),
            reset=_nothing_to_reset,
        )


async def _nothing_to_reset(_: object) -> None:
    """Spare a round trip after each operation: all that it did was in its one transaction."""
