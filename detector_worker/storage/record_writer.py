"""Writes many records in few statements, each of them once in effect.

The keys of the entries are claimed in ``detector_worker.delivered`` in the same transaction as the rows: an
entry whose key is there already has been written, whatever became of the answer, and is passed over.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from detector_worker.core.entities import FieldValue
from detector_worker.core.exceptions import DatabaseError
from detector_worker.core.outbox import CreateRecord, UpdateRecord
from detector_worker.storage.catalogue import Catalogue, Table, as_text
from detector_worker.storage.faults import TransientDatabaseError

__all__ = ["RecordWrite", "prune_delivered", "write_records"]

_CLAIM: Final = (
    "INSERT INTO detector_worker.delivered (key) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING RETURNING key"
)
_PRUNE: Final = """
DELETE FROM detector_worker.delivered WHERE key IN (
  SELECT key FROM detector_worker.delivered WHERE delivered_at < now() - make_interval(days => $1) LIMIT $2)
"""


@dataclass(frozen=True, slots=True)
class RecordWrite:
    """One row to write, once."""

    key: str
    """Idempotency key."""
    visit_id: str
    record: CreateRecord | UpdateRecord


async def write_records(connection: PoolConnectionProxy, catalogue: Catalogue, writes: Sequence[RecordWrite]) -> None:
    """Write all of them or raise; to be called inside a transaction.

    Raises:
        DatabaseError: No such table or column, or an update found no row.
        asyncpg.PostgresError: As the server says.
    """
    try:
        claimed = {row[0] for row in await connection.fetch(_CLAIM, [write.key for write in writes])}
    except asyncpg.SyntaxOrAccessError as exc:  # our own table: no entry is to blame; a new pool looks after it
        raise TransientDatabaseError(
            f"The table detector_worker.delivered cannot be used: {exc}",
            where="PostgreSQL",
            mend="Run make db-migrate, and let the worker's account read and write that table.",
            connection_lost=True,
        ) from exc
    for records in _groups(write for write in writes if write.key in claimed):
        table = await catalogue.table(connection, records[0].table)
        first = records[0]
        if isinstance(first, CreateRecord):
            await _insert(connection, table, [record.fields for record in records])
        else:
            keys = [as_text(record.key_value) for record in records if isinstance(record, UpdateRecord)]
            await _update(connection, table, first.key_field, keys, [record.fields for record in records])


async def prune_delivered(connection: PoolConnectionProxy, *, older_than_days: int, limit: int) -> None:
    """Forget keys whose entries can no longer be delivered a second time."""
    await connection.execute(_PRUNE, older_than_days, limit)


def _groups(writes: Iterable[RecordWrite]) -> list[list[CreateRecord | UpdateRecord]]:
    """Put together what one statement can write, without changing the order per visit or per row.

    A write stands one step after the last one of its visit, and after the last update of its row; what stands
    on one step has no order among itself.
    """
    steps: dict[tuple[str, ...], int] = {}
    groups: dict[tuple[object, ...], list[CreateRecord | UpdateRecord]] = {}
    for write in writes:
        record = write.record
        waits_for: list[tuple[str, ...]] = [("visit", write.visit_id)]
        if isinstance(record, UpdateRecord):
            waits_for.append(("row", record.table, record.key_field, as_text(record.key_value) or ""))
        step = 1 + max(steps.get(name, 0) for name in waits_for)
        steps.update(dict.fromkeys(waits_for, step))
        key_field = record.key_field if isinstance(record, UpdateRecord) else None
        shape = (step, type(record).__name__, record.table, key_field, *record.fields)
        groups.setdefault(shape, []).append(record)
    return [groups[shape] for shape in sorted(groups, key=lambda shape: int(str(shape[0])))]


async def _insert(connection: PoolConnectionProxy, table: Table, rows: Sequence[Mapping[str, FieldValue]]) -> None:
    names = _names(table, rows[0])
    columns = ", ".join(table.column(name) for name in names)
    values = ", ".join(table.cast(name, f"u.c{n}") for n, name in enumerate(names, 1))
    statement = f"INSERT INTO {table.name} ({columns}) SELECT {values} FROM {_unnest(len(names))}"  # noqa: S608 - identifiers are the catalogue's, quoted
    await connection.execute(statement, *_arrays(names, rows))


async def _update(
    connection: PoolConnectionProxy,
    table: Table,
    key_field: str,
    keys: Sequence[str | None],
    rows: Sequence[Mapping[str, FieldValue]],
) -> None:
    names, key_column = _names(table, rows[0]), table.column(key_field)
    settings = ", ".join(f"{table.column(name)} = {table.cast(name, f'u.c{n}')}" for n, name in enumerate(names, 2))
    statement = (
        f"UPDATE {table.name} AS t SET {settings} FROM {_unnest(1 + len(names))} "  # noqa: S608 - as above
        f"WHERE t.{key_column} = {table.cast(key_field, 'u.c1')} RETURNING u.c1"
    )
    found = {row[0] for row in await connection.fetch(statement, keys, *_arrays(names, rows))}
    missing = [key for key in keys if key not in found]
    if missing:
        raise DatabaseError(
            f"The update found no row whose {key_column} is {str(missing[0])[:80]!r}",
            where=f"table {table.name}",
            mend="Check key_field and key_value of the action, and whether the row was deleted.",
        )


def _names(table: Table, fields: Mapping[str, FieldValue]) -> list[str]:
    if not fields:
        raise DatabaseError("There is no field to write", where=f"table {table.name}", mend="Give the action fields.")
    return list(fields)


def _unnest(width: int) -> str:
    arrays = ", ".join(f"${n}::text[]" for n in range(1, width + 1))
    columns = ", ".join(f"c{n}" for n in range(1, width + 1))
    return f"unnest({arrays}) AS u({columns})"


def _arrays(names: Sequence[str], rows: Sequence[Mapping[str, FieldValue]]) -> list[list[str | None]]:
    return [[as_text(row[name]) for row in rows] for name in names]
