"""Writes many records in few statements, each of them once in effect.

The keys of the entries are claimed in ``detector_worker.delivered`` in the same transaction as the rows: an entry
whose key is there already has been written, whatever became of the answer, and is passed over.
"""

from collections.abc import Collection, Container, Iterable, Sequence
from operator import itemgetter
from typing import Final

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

from detector_worker.core.entities import FieldValue
from detector_worker.core.exceptions import DatabaseError
from detector_worker.core.outbox import CreateRecord, PatchRecord, SpoolEntry, UpdateRecord
from detector_worker.storage.faults import OutdatedTablesError, TransientDatabaseError
from detector_worker.storage.postgresql.catalogue import Table, Tables, as_text

__all__ = ["prune_delivered", "write_records"]

_Record = CreateRecord | UpdateRecord
_CLAIM: Final = "INSERT INTO detector_worker.delivered (key) SELECT json_array_elements_text(${}::json)"
_PRUNE: Final = """
DELETE FROM detector_worker.delivered WHERE key IN (
  SELECT key FROM detector_worker.delivered WHERE delivered_at < now() - interval '7 days' LIMIT 20000)
"""


async def write_records(
    connection: PoolConnectionProxy, tables: Tables, entries: Sequence[SpoolEntry], *, fresh: bool
) -> None:
    """Write all of these records or raise, the driver's exceptions too; to be called inside a transaction.

    Args:
        connection: In a transaction.
        tables: What is known of them.
        entries: Creations, updates and patches.
        fresh: Take for granted that none was written before, as is mostly so: one statement less. Where one was, it is
            a violation of our own key, to be tried again without.
    """
    keys = _as_json([entry.key for entry in entries])
    claim, claimed = (keys, None) if fresh else (None, await _claim_some(connection, keys))
    writes = list[tuple[str, _Record]]()
    for entry in entries:
        if claimed is not None and entry.key not in claimed:
            continue
        delivery = entry.delivery
        record = await _known_part(tables, delivery) if isinstance(delivery, PatchRecord) else delivery
        if record is not None:
            assert isinstance(record, _Record)
            writes.append((entry.visit_id, record))
    for group in _groups(writes):
        await _write_alike(connection, await tables.existing(group[0].table), group, claim)
        claim = None  # with the first statement
    if claim is not None:
        await connection.execute(_CLAIM.format(1), claim)


async def _claim_some(connection: PoolConnectionProxy, keys: str) -> Collection[str]:
    """Claim keys, a JSON list, and return those that nobody has claimed before."""
    try:
        statement = f"{_CLAIM.format(1)} ON CONFLICT DO NOTHING RETURNING key"
        return {row[0] for row in await connection.fetch(statement, keys)}
    except asyncpg.SyntaxOrAccessError as exc:  # our own table: no entry is to blame; a new pool looks after it
        raise TransientDatabaseError(
            f"The table detector_worker.delivered cannot be used: {exc}",
            where="PostgreSQL",
            mend="Set database.auto_migrate, and let the worker's account read and write that table.",
            connection_lost=True,
        ) from exc


async def prune_delivered(connection: PoolConnectionProxy) -> bool:
    """Forget some keys whose entries can no longer be delivered a second time; False: there are no more of them."""
    return await connection.execute(_PRUNE) != "DELETE 0"


async def _known_part(tables: Tables, patch: PatchRecord) -> UpdateRecord | None:
    """Return the update of those of a patch's fields that are columns, or None: none of them is."""
    table = await tables.existing(patch.table)
    if not table.types.keys() >= patch.fields.keys():  # a remembered table may lack a column that was added since
        table = await tables.look_up(patch.table)
    fields = {name: value for name, value in patch.fields.items() if name in table.types}
    return UpdateRecord(patch.table, patch.key_field, patch.key_value, fields) if fields else None


def _groups(writes: Iterable[tuple[str, _Record]]) -> list[list[_Record]]:
    """Put together what one statement can write, without changing the order per visit or per row.

    A write stands one step after the last one of its visit, and after the last one of its row; what stands on one
    step has no order among itself.
    """
    visit_steps, row_steps = dict[str, int](), dict[tuple[str, str, str], int]()
    groups: dict[tuple[object, ...], list[_Record]] = {}
    for visit, record in writes:
        step = visit_steps.get(visit, 0)
        value = record.fields.get(record.key_field) if isinstance(record, CreateRecord) else record.key_value
        key = value if value.__class__ is str else as_text(value)  # a call for each record would be dear
        if key is not None:  # else the server makes the key
            row = (record.table, record.key_field, key)
            step = max(step, row_steps.get(row, 0))
            row_steps[row] = step + 1
        visit_steps[visit] = step + 1
        shape = (step, record.__class__, record.table, record.key_field, *record.fields)
        if shape in groups:
            groups[shape].append(record)
        else:
            groups[shape] = [record]
    return [groups[place] for place in sorted(groups, key=itemgetter(0))]


async def _write_alike(
    connection: PoolConnectionProxy, table: Table, records: Sequence[_Record], claim: str | None
) -> None:
    """Write records of one table, kind and set of fields with one statement, which claims keys as well.

    Each statement tells whether the columns that it has written are of the types to which the values were cast: a cast
    to what a column was until a moment ago, such as integer, could change a value without a word.
    """
    names = list(records[0].fields)
    if not names:
        raise DatabaseError("There is no field to write", where=f"table {table.name}", mend="Give the action fields.")
    values = [_as_json([record.fields[name] for record in records]) for name in names]
    keys: list[str | None] = []
    if isinstance(records[0], UpdateRecord):
        keys = [as_text(record.key_value) for record in records if isinstance(record, UpdateRecord)]
        values.append(_as_json(keys))
    claimed = []
    if claim is not None:
        values.append(claim)
        claimed.append(f"claimed AS ({_CLAIM.format(len(values))})")
    key_field = records[0].key_field
    statement = _completion(table, names, key_field, claimed) if keys else _insertion(table, names, claimed)
    written = await connection.fetch(statement, *values)
    _require_rows(table, keys, {row[1] for row in written} if keys else ())
    if not all(row[0] for row in written):
        raise OutdatedTablesError(
            "The columns' types have changed", where=f"table {table.name}", mend="It is tried again."
        )


def _insertion(table: Table, names: Sequence[str], beside: Sequence[str]) -> str:
    """Return the statement that inserts, with what is done ``beside``; identifiers are the catalogue's, quoted."""
    columns = ", ".join(map(table.column, names))
    values = ", ".join(table.cast(name, f"u.c{n}") for n, name in enumerate(names, 1))
    insert = f"INSERT INTO {table.name} ({columns}) SELECT {values} FROM {_rows(len(names))}"  # noqa: S608
    known = table.as_known(names, of="t")
    steps = ", ".join([*beside, f"written AS ({insert})"])
    return f"WITH {steps} SELECT {known} FROM (SELECT (NULL::{table.name}).*) AS t"  # noqa: S608


def _completion(table: Table, names: Sequence[str], key_field: str, beside: Sequence[str]) -> str:
    """Return the statement that updates, with what is done ``beside``; identifiers are the catalogue's, quoted."""
    key_column, key = table.column(key_field), f"u.c{len(names) + 1}"
    settings = ", ".join(f"{table.column(name)} = {table.cast(name, f'u.c{n}')}" for n, name in enumerate(names, 1))
    update = f"UPDATE {table.name} AS t SET {settings} FROM {_rows(len(names) + 1)}"  # noqa: S608
    known = table.as_known((*names, key_field), of="t")
    steps = f"WITH {', '.join(beside)} " if beside else ""
    return f"{steps}{update} WHERE t.{key_column} = {table.cast(key_field, key)} RETURNING {known}, {key}"


def _require_rows(table: Table, keys: Iterable[str | None], found: Container[str | None]) -> None:
    missing = [key for key in keys if key not in found]
    if missing:
        raise DatabaseError(
            f"The update found no row whose key is {str(missing[0])[:80]!r}",
            where=f"table {table.name}",
            mend="Check key_field and key_value of the action, and whether the row was deleted.",
        )


def _rows(width: int) -> str:
    """Return SQL for the rows ``u``, all text, whose columns are bound as one JSON list each.

    Not as text arrays: the driver looks at every element of an array more than once, which took longer than all the
    rest of a batch on our side.
    """
    numbers = range(1, width + 1)
    lists = ", ".join(f"json_array_elements_text(${n}::json)" for n in numbers)
    return f"ROWS FROM ({lists}) AS u({', '.join(f'c{n}' for n in numbers)})"


def _as_json(values: Sequence[FieldValue]) -> str:
    try:
        # This runs for each value of each row: a look at the class is cheaper than a call.
        return orjson.dumps(
            [value if value.__class__ is str or value is None else as_text(value) for value in values]
        ).decode()
    except TypeError as exc:
        raise DatabaseError(
            f"A value cannot be written: {exc}", where="PostgreSQL", mend="Text must be valid Unicode."
        ) from exc
