"""Rows in PostgreSQL: the only place that speaks SQL about the users' tables."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Final, Self, TypeVar
from uuid import uuid4

import orjson
from asyncpg.pool import PoolConnectionProxy

from detector_worker.core.entities import FieldValue
from detector_worker.core.outbox import CreateRecord, SpoolEntry, UpdateRecord
from detector_worker.storage.faults import TransientDatabaseError
from detector_worker.storage.postgresql.catalogue import Tables, as_text, find_table, place_of_new_table
from detector_worker.storage.postgresql.pool import DatabaseConfig, DatabaseTimeouts, Operation, PostgresqlPool
from detector_worker.storage.postgresql.record_writer import prune_delivered, write_records
from detector_worker.storage.postgresql.table_declarations import statements_to_add

__all__ = ["DatabaseConfig", "DatabaseManager", "DatabaseTimeouts"]

T = TypeVar("T")

_RETRY_DELAYS_S: Final = (1.0, 2.0, 4.0)
_TIMEOUTS: Final = DatabaseTimeouts()
_DECLARING_LOCK: Final = 5_021_863_418  # two workers that add one table at a time would see a unique violation


class DatabaseManager:
    """Reads and writes rows. Every coroutine runs on one event loop and raises `DatabaseError`.

    `connect`, `create_record`, `update_record`, `get_record` and `execute_query` try again where the connection is
    lost. `write`, `ensure_tables` and `prune_delivered` leave that to their caller, the drainer:
    `TransientDatabaseError` says that another try may help.
    """

    def __init__(self, config: DatabaseConfig, *, auto_migrate: bool, timeouts: DatabaseTimeouts = _TIMEOUTS) -> None:
        """``auto_migrate``: this account may bring the worker's own schema up to date."""
        self._pool = PostgresqlPool(config, auto_migrate=auto_migrate, timeouts=timeouts)

    async def connect(self) -> None:
        """Connect now rather than at first use."""
        await self.execute_query("SELECT 1")

    async def disconnect(self) -> None:
        """Close all connections, within two seconds."""
        await self._pool.close()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.disconnect()

    async def create_record(self, table: str, fields: Mapping[str, FieldValue]) -> None:
        """Insert one row, once, however often the connection is lost meanwhile."""
        await self._write_directly(CreateRecord(table, "", fields))

    async def update_record(
        self, table: str, key_value: FieldValue, key_field: str, update_data: Mapping[str, FieldValue]
    ) -> None:
        """Set columns of the rows whose ``key_field`` is ``key_value``; an error where there is none."""
        await self._write_directly(UpdateRecord(table, key_field, key_value, update_data))

    async def get_record(self, table: str, key_value: FieldValue, key_field: str) -> dict[str, FieldValue] | None:
        """Return one row whose ``key_field`` is ``key_value``, values as in JSON, times in UTC; None: there is none."""

        async def select(connection: PoolConnectionProxy, tables: Tables) -> dict[str, FieldValue] | None:
            found = await tables.existing(table)
            key = f"t.{found.column(key_field)} = {found.cast(key_field, '$1::text')}"
            statement = f"SELECT to_jsonb(t)::text FROM {found.name} AS t WHERE {key} LIMIT 1"  # noqa: S608 - catalogue's names
            row = await connection.fetchval(statement, as_text(key_value))
            return None if row is None else dict(orjson.loads(row))

        return await self._execute_with_retry(select)

    async def execute_query(self, query: str, *values: object) -> list[dict[str, object]]:
        """Carry out an operator's own SQL with ``$1`` ... bound; never for text that came from outside."""

        async def fetch(connection: PoolConnectionProxy, _: Tables) -> list[dict[str, object]]:
            return [dict(row) for row in await connection.fetch(query, *values)]

        return await self._execute_with_retry(fetch)

    async def write(self, entries: Sequence[SpoolEntry]) -> None:
        """Write records in one transaction, each once in effect, or raise."""
        await self._pool.run(_writing(entries))

    async def ensure_tables(self, tables: Mapping[str, Mapping[str, str]], *, add: bool) -> list[str]:
        """Add missing tables and columns, or only say which SQL would add them; return that SQL."""

        async def ensure(connection: PoolConnectionProxy, known: Tables) -> list[str]:
            statements = []
            for name, columns in tables.items():
                found = await find_table(connection, name)
                place = found.name if found else await place_of_new_table(connection, name)
                statements += statements_to_add(place, columns, found.types if found else None)
            if add and statements:
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _DECLARING_LOCK)
                await connection.execute("; ".join(statements))
                known.forget()
            return statements

        return await self._pool.run(ensure)

    async def prune_delivered(self) -> bool:
        """Forget some of the delivered keys that are old enough; False: there are no more of them."""

        async def prune(connection: PoolConnectionProxy, _: Tables) -> bool:
            return await prune_delivered(connection)

        return await self._pool.run(prune)

    def throw_away_pool(self) -> None:
        """Cut all connections at once; calls under way fail, the next one connects anew."""
        self._pool.abort()

    async def _write_directly(self, record: CreateRecord | UpdateRecord) -> None:
        key = f"direct:{uuid4()}"  # one for all retries: a lost answer does not make a second row
        await self._execute_with_retry(_writing([SpoolEntry(key, key, 0.0, record)]))

    async def _execute_with_retry(self, operation: Operation[T]) -> T:
        """Carry out a direct call: where the connection is lost, thrice more after 1, 2 and 4 s, on a fresh one."""
        for delay_s in _RETRY_DELAYS_S:
            try:
                return await self._pool.run(operation)
            except TransientDatabaseError as exc:
                if not exc.connection_lost:
                    raise
            await asyncio.sleep(delay_s)
        return await self._pool.run(operation)


def _writing(entries: Sequence[SpoolEntry]) -> Operation[None]:
    """Write entries; at a second attempt some of them may have been written at the first, or in an earlier life."""
    attempts = count()

    async def write(connection: PoolConnectionProxy, tables: Tables) -> None:
        await write_records(connection, tables, entries, fresh=next(attempts) == 0)

    return write
