"""What tables and columns the database really has: the only source of identifiers in our SQL."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson
from asyncpg.pool import PoolConnectionProxy

from detector_worker.core.entities import FieldValue
from detector_worker.core.exceptions import DatabaseError

__all__ = ["Table", "as_text", "existing_table", "find_table", "quote_identifier"]

_MAX_IDENTIFIER_BYTES: Final = 63  # PostgreSQL would cut a longer one without a word
# The type without its length: an explicit cast to varchar(3) would cut the value, the assignment refuses it.
# System tables are left out: the embedded server's account is a superuser, who could write even to them.
_COLUMNS: Final = """
SELECT n.nspname, a.attname, format_type(a.atttypid, -1)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relname = $1 AND pg_table_is_visible(c.oid) AND c.relkind IN ('r', 'p', 'v', 'f')
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'detector_worker')
  AND a.attnum > 0 AND NOT a.attisdropped
"""
_WHOLE_NUMBERS: Final = frozenset({"smallint", "integer", "bigint"})


def quote_identifier(name: str, *, what: str = "table or column name") -> str:
    """Return a name in double quotes, whatever it holds; DatabaseError where PostgreSQL could not have it."""
    if not name or "\x00" in name or len(name.encode()) > _MAX_IDENTIFIER_BYTES:
        raise DatabaseError(
            f"{name[:80]!r} cannot be a {what}",
            where="PostgreSQL",
            mend=f"Names have 1 to {_MAX_IDENTIFIER_BYTES} bytes and no NUL.",
        )
    return '"' + name.replace('"', '""') + '"'


def as_text(value: FieldValue) -> str | None:
    """Return a value as the text from which PostgreSQL casts it; None stays NULL."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return orjson.dumps(value).decode() if isinstance(value, list | dict) else str(value)


@dataclass(frozen=True, slots=True)
class Table:
    """A table that exists: its name, quoted and with its schema, and its columns' types, to which text is cast."""

    name: str
    types: Mapping[str, str]

    def column(self, name: str) -> str:
        """Return a column's name, quoted; DatabaseError where there is none."""
        if name not in self.types:
            known = ", ".join(sorted(self.types)[:20])
            raise DatabaseError(
                f"There is no column {name[:80]!r}", where=f"table {self.name}", mend=f"It has: {known}."
            )
        return quote_identifier(name)

    def cast(self, column: str, text: str) -> str:
        """Return SQL that casts the text expression ``text`` to the type of an existing column."""
        kind = self.types[column]
        # 10.0, as a box's corner is, is a whole number to people and to numeric, but not to integer.
        return f"{text}::numeric::{kind}" if kind in _WHOLE_NUMBERS else f"{text}::{kind}"


async def find_table(connection: PoolConnectionProxy, name: str) -> Table | None:
    """Return the table that a bare name means on this connection's search path, or None."""
    quoted = quote_identifier(name, what="table name")
    rows = await connection.fetch(_COLUMNS, name)
    if not rows:
        return None
    return Table(f"{quote_identifier(rows[0][0])}.{quoted}", {column: kind for _, column, kind in rows})


async def existing_table(connection: PoolConnectionProxy, name: str) -> Table:
    """Return what `find_table` finds; DatabaseError where it finds nothing."""
    found = await find_table(connection, name)
    if found is None:
        raise DatabaseError(
            f"There is no table {name[:80]!r}",
            where="PostgreSQL",
            mend="Create it, or declare it under tables in the archive with database.auto_migrate on.",
        )
    return found
