"""The tables that an archive declares, which is hostile input: a strict grammar in, additive SQL out."""

import re
from collections.abc import Mapping
from typing import Final

from detector_worker.core.exceptions import DatabaseError
from detector_worker.storage.postgresql.catalogue import quote_identifier

__all__ = ["check_declaration", "statements_to_add"]

_TYPE: Final = r"""(?:
    smallint | integer | int | int[248] | bigint | real | float[48] | double\ +precision
  | (?:numeric | decimal) (?:\ *\(\ *\d{1,4}\ *(?:,\ *\d{1,4}\ *)?\))?
  | text | (?:varchar | character\ +varying | char | character) (?:\ *\(\ *\d{1,8}\ *\))?
  | boolean | bool | uuid | date | interval | json | jsonb | bytea | inet
  | (?:timestamptz | timetz) (?:\(\d\))? | (?:timestamp | time) (?:\(\d\))? (?:\ +with(?:out)?\ +time\ +zone)?
)"""
_DEFAULT: Final = r"""default\ +(?:
    now\(\) | current_timestamp | gen_random_uuid\(\) | true | false | null
  | -?\d{1,18}(?:\.\d{1,18})? | '[^'\\\x00]{0,200}'
)"""
_DECLARATION: Final = re.compile(
    rf"{_TYPE} (?:\ +(?:primary\ +key | not\ +null | null | unique | {_DEFAULT}))*",
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)


def check_declaration(declaration: str, *, where: str) -> str:
    """Return a column's declaration, such as ``uuid primary key``, fit to stand in SQL, or raise `DatabaseError`."""
    tidy = declaration.strip(" ")
    if not _DECLARATION.fullmatch(tidy):
        raise DatabaseError(
            f"The declaration {declaration[:80]!r} is not allowed",
            where=where,
            mend="Use a common type with optional length, then primary key, not null, unique or a plain default.",
        )
    return tidy


def statements_to_add(place: str, columns: Mapping[str, str], existing: Mapping[str, str] | None) -> list[str]:
    """Return the SQL that adds what is missing of one table; nothing is ever dropped or narrowed.

    Args:
        place: The table's name, quoted and with its schema.
        columns: Each column's declaration.
        existing: The columns it has; None: there is no such table.

    Raises:
        DatabaseError: A name or a declaration is not allowed, whether it is missing or not.
    """
    declared = {
        column: f"{quote_identifier(column, what='column name')} "
        + check_declaration(declaration, where=f"table {place}, column {column[:80]!r}")
        for column, declaration in columns.items()
    }
    if existing is None:
        return [f"CREATE TABLE IF NOT EXISTS {place} ({', '.join(declared.values())})"]
    missing = [text for column, text in declared.items() if column not in existing]
    return [f"ALTER TABLE {place} ADD COLUMN IF NOT EXISTS {text}" for text in missing]
