"""What tables and columns the database really has: the only source of identifiers in our SQL."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import orjson
from asyncpg.pool import PoolConnectionProxy

from detector_worker.core.entities import FieldValue
from detector_worker.core.exceptions import DatabaseError

__all__ = ["Table", "Tables", "as_text", "find_table", "place_of_new_table", "quote_identifier"]

_MAX_IDENTIFIER_BYTES: Final = 63  # PostgreSQL would cut a longer one without a word
# System tables are left out: the embedded server's account is a superuser, who could write even to them. So is our
# own schema, even where it is on the search path, as for an account that is named like it.
_NOT_RESERVED: Final = "n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'detector_worker')"
# The type without its length: an explicit cast to varchar(3) would cut the value, the assignment refuses it.
_COLUMNS: Final = f"""
SELECT t.nspname, t.relname, a.attname, format_type(a.atttypid, -1)
FROM (
  SELECT c.oid, n.nspname, c.relname
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'f') AND {_NOT_RESERVED}
    AND (n.nspname = $1::text AND c.relname = $2::text
      OR c.relname = $3::text AND n.nspname = ANY(current_schemas(false)))
  ORDER BY n.nspname = $1::text AND c.relname = $2::text DESC, array_position(current_schemas(false), n.nspname)
  LIMIT 1
) AS t JOIN pg_attribute a ON a.attrelid = t.oid
WHERE a.attnum > 0 AND NOT a.attisdropped
"""  # noqa: S608 - one text of our own
_SCHEMA: Final = f"""
SELECT n.nspname FROM pg_namespace n
WHERE {_NOT_RESERVED} AND CASE WHEN $1 = '' THEN n.nspname = ANY(current_schemas(false)) ELSE n.nspname = $1::text END
ORDER BY array_position(current_schemas(false), n.nspname) LIMIT 1
"""  # noqa: S608 - as above
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

    def as_known(self, columns: Iterable[str], *, of: str) -> str:
        """Return SQL that is true where these existing columns of the row ``of`` still have the types known here."""
        pairs = [(f"pg_typeof({of}.{quote_identifier(name)})", self.types[name]) for name in columns]
        known = ", ".join("'" + kind.replace("'", "''") + "'::regtype" for _, kind in pairs)
        return f"ROW({', '.join(seen for seen, _ in pairs)}) = ROW({known})"


class Tables:
    """The tables that one operation asks for, each looked up once in the life of a pool.

    What is remembered may be outdated: the pool forgets it where an operation that asked here fails, and then tries
    that operation once more.
    """

    def __init__(self, connection: PoolConnectionProxy, known: dict[str, Table]) -> None:
        """``known``: what earlier operations of the pool have found; it is added to."""
        self._connection, self._known = connection, known
        self._fresh: set[str] = set()
        self.were_asked_for = False

    async def existing(self, name: str) -> Table:
        """Return a table, remembered or looked up; DatabaseError where there is none."""
        self.were_asked_for = True
        return self._known.get(name) or await self.look_up(name)

    async def look_up(self, name: str) -> Table:
        """Return a table as it is now, or as this operation has seen it before; DatabaseError where there is none."""
        self.were_asked_for = True
        if name not in self._fresh or name not in self._known:
            found = await find_table(self._connection, name)
            if found is None:
                raise DatabaseError(
                    f"There is no table {name[:80]!r}",
                    where="PostgreSQL",
                    mend="Create it, or declare it under tables in the archive with database.auto_migrate on.",
                )
            self._known[name] = found
            self._fresh.add(name)
        return self._known[name]

    def forget(self) -> None:
        """Let every operation of the pool look its tables up again."""
        self._known.clear()


async def find_table(connection: PoolConnectionProxy, name: str) -> Table | None:
    """Return the table that a name means, or None.

    What stands before the first dot is the table's schema. Where there is no such table, or no dot, the name is that
    of a table on this connection's search path.
    """
    schema, bare = _parts(name)
    rows = await connection.fetch(_COLUMNS, schema, bare, name)
    if not rows:
        return None
    place = f"{quote_identifier(rows[0][0])}.{quote_identifier(rows[0][1])}"
    return Table(place, {column: kind for _, _, column, kind in rows})


async def place_of_new_table(connection: PoolConnectionProxy, name: str) -> str:
    """Return a name, quoted and with its schema, under which `find_table` would find a table made now.

    Raises:
        DatabaseError: There is no such schema, or it is no place for records.
    """
    schema, bare = _parts(name)
    found = await connection.fetchval(_SCHEMA, schema)
    if found is None:
        raise DatabaseError(
            f"There is no schema {schema[:80]!r}" if schema else "The search path names no schema for tables",
            where=f"table {name[:80]!r}",
            mend="Create the schema, or name another one; the system's and the worker's own are not for records.",
        )
    return f"{quote_identifier(found)}.{quote_identifier(bare or name)}"


def _parts(name: str) -> tuple[str, str]:
    """Return schema and table, both empty where a name holds no schema; DatabaseError where it can be no name."""
    schema, _, bare = name.partition(".")
    if not (schema and bare):
        schema = bare = ""
    for part in (schema, bare) if schema else (name,):
        quote_identifier(part, what="table name")
    return schema, bare
