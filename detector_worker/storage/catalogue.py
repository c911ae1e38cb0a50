"""What tables and columns the database really has: the only source of identifiers in our SQL."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import orjson
from asyncpg.pool import PoolConnectionProxy

from detector_worker.core.entities import FieldValue
from detector_worker.core.exceptions import DatabaseError

__all__ = ["Catalogue", "Table", "as_text", "quote_identifier"]

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
    """Return a name in double quotes, whatever it holds.

    Raises:
        DatabaseError: PostgreSQL could not have such a name.
    """
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
    """A table that exists."""

    name: str
    """Quoted, with its schema."""
    types: Mapping[str, str]
    """By column: the type to which text is cast."""

    def column(self, name: str) -> str:
        """Return a column's name, quoted.

        Raises:
            DatabaseError: The table has no such column.
        """
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


class Catalogue:
    """Remembers tables until it is told to forget them."""

    def __init__(self) -> None:
        self._tables: dict[str, Table] = {}

    async def find(self, connection: PoolConnectionProxy, name: str) -> Table | None:
        """Return the table that a bare name means on this connection's search path, or None."""
        quoted = quote_identifier(name, what="table name")
        if name not in self._tables:
            rows = await connection.fetch(_COLUMNS, name)
            if not rows:
                return None
            schema = quote_identifier(rows[0][0])
            self._tables[name] = Table(f"{schema}.{quoted}", {column: kind for _, column, kind in rows})
        return self._tables[name]

    async def table(self, connection: PoolConnectionProxy, name: str) -> Table:
        """Return a table.

        Raises:
            DatabaseError: There is none of this name.
        """
        found = await self.find(connection, name)
        if found is None:
            raise DatabaseError(
                f"There is no table {name[:80]!r}",
                where="PostgreSQL",
                mend="Create it, or declare it under tables in the archive with database.auto_migrate on.",
            )
        return found

    def forget(self, names: Iterable[str]) -> bool:
        """Look these tables up again next time; False where none was remembered."""
        return sum(self._tables.pop(name, None) is not None for name in names) > 0
