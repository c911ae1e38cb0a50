"""Writes many records in few statements, each of them once in effect.

The keys of the entries are claimed in ``detector_worker.delivered`` in the same transaction as the rows: an entry
whose key is there already has been written, whatever became of the answer, and is passed over.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from detector_worker.core.exceptions import DatabaseError
from detector_worker.core.outbox import CreateRecord, SpoolEntry, UpdateRecord
from detector_worker.storage.catalogue import Table, as_text, existing_table
from detector_worker.storage.faults import TransientDatabaseError

__all__ = ["prune_delivered", "write_records"]

_Record = CreateRecord | UpdateRecord
_CLAIM: Final = (
    "INSERT INTO detector_worker.delivered (key) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING RETURNING key"
)
_PRUNE: Final = """
DELETE FROM detector_worker.delivered WHERE key IN (
  SELECT key FROM detector_worker.delivered WHERE delivered_at < now() - interval '7 days' LIMIT 20000)
"""


async def write_records(connection: PoolConnectionProxy, entries: Sequence[SpoolEntry]) -> None:
    """Write all of these records or raise, the driver's exceptions too; to be called inside a transaction."""
    try:
        claimed = {row[0] for row in await connection.fetch(_CLAIM, [entry.key for entry in entries])}
    except asyncpg.SyntaxOrAccessError as exc:  # our own table: no entry is to blame; a new pool looks after it
        raise TransientDatabaseError(
            f"The table detector_worker.delivered cannot be used: {exc}",
            where="PostgreSQL",
            mend="Set database.auto_migrate, and let the worker's account read and write that table.",
            connection_lost=True,
        ) from exc
    for records in _groups(entry for entry in entries if entry.key in claimed):
        await _write_alike(connection, await existing_table(connection, records[0].table), records)


async def prune_delivered(connection: PoolConnectionProxy) -> None:
    """Forget keys whose entries can no longer be delivered a second time."""
    await connection.execute(_PRUNE)


def _groups(entries: Iterable[SpoolEntry]) -> list[list[_Record]]:
    """Put together what one statement can write, without changing the order per visit or per row.

    A write stands one step after the last one of its visit, and after the last update of its row; what stands on one
    step has no order among itself.
    """
    steps: dict[tuple[str, ...], int] = {}
    groups: dict[tuple[int, tuple[object, ...]], list[_Record]] = {}
    for entry in entries:
        record = entry.delivery
        assert isinstance(record, _Record)
        waits_for: list[tuple[str, ...]] = [("visit", entry.visit_id)]
        shape = (type(record), record.table, record.key_field, *record.fields)
        if isinstance(record, UpdateRecord):
            waits_for.append(("row", record.table, record.key_field, as_text(record.key_value) or ""))
        step = 1 + max(steps.get(name, 0) for name in waits_for)
        steps.update(dict.fromkeys(waits_for, step))
        groups.setdefault((step, shape), []).append(record)
    return [groups[place] for place in sorted(groups, key=lambda place: place[0])]


async def _write_alike(connection: PoolConnectionProxy, table: Table, records: Sequence[_Record]) -> None:
    """Write records of one table, kind and set of fields with one statement."""
    names, key_field = list(records[0].fields), records[0].key_field
    if not names:
        raise DatabaseError("There is no field to write", where=f"table {table.name}", mend="Give the action fields.")
    columns = [table.column(name) for name in names]
    values = [table.cast(name, f"u.c{n}") for n, name in enumerate(names, 1)]
    arrays = [[as_text(record.fields[name]) for record in records] for name in names]
    # Every identifier is the catalogue's, quoted.
    if isinstance(records[0], CreateRecord):
        insert = f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT {', '.join(values)}"
        await connection.execute(f"{insert} FROM {_unnest(len(arrays))}", *arrays)
        return
    keys = [as_text(record.key_value) for record in records if isinstance(record, UpdateRecord)]
    key_column, key = table.column(key_field), f"u.c{len(arrays) + 1}"
    settings = ", ".join(f"{column} = {value}" for column, value in zip(columns, values, strict=True))
    update = f"UPDATE {table.name} AS t SET {settings} FROM {_unnest(len(arrays) + 1)} "  # noqa: S608
    where = f"WHERE t.{key_column} = {table.cast(key_field, key)} RETURNING {key}"
    found = {row[0] for row in await connection.fetch(update + where, *arrays, keys)}
    missing = [key for key in keys if key not in found]
    if missing:
        raise DatabaseError(
            f"The update found no row whose {key_column} is {str(missing[0])[:80]!r}",
            where=f"table {table.name}",
            mend="Check key_field and key_value of the action, and whether the row was deleted.",
        )


def _unnest(width: int) -> str:
    numbers = range(1, width + 1)
    return f"unnest({', '.join(f'${n}::text[]' for n in numbers)}) AS u({', '.join(f'c{n}' for n in numbers)})"
