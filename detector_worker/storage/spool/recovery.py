"""A look at the spool's file before it is used: one that is damaged is set aside, and what can be read is taken over.

A file that SQLite cannot read through would fail somewhere in the middle of a night. The rows are looked for by every
way that leads to them, the table's own tree and each index, from both ends: a broken page hides only what lies on it.
"""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from detector_worker.storage.spool.schema import bring_up_to_date

__all__ = ["mend_if_damaged"]

_HEADER_BYTES: Final = 100
_PAGE_BYTES: Final = 4096
# By table: the ways to its rows, as the conditions and orders for which SQLite reads the table or one index alone.
_WAYS: Final = {
    "entries": (("true", "rowid"), ("true", "key"), ("dead_reason IS NULL", "sink"), ("dead_reason NOT NULL", "seq")),
    "visits": (("true", "rowid"), ("true", "record_id"), ("true", "subscription_id")),
    "sequences": (("true", "rowid"), ("true", "subscription_id")),
    "counts": (("true", "rowid"), ("true", "name")),
    "sessions": (("true", "rowid"), ("true", "session_id")),
    "displays": (("true", "rowid"), ("true", "display_id")),
}


def mend_if_damaged(path: Path) -> str | None:
    """Check the file, and where it is damaged put a new one with all readable rows in its place.

    The damaged one stays beside it, under another name. It reads the whole file: about a second for each GB.

    Returns:
        What was found and done, for people; None where all is well, or there is no file.

    Raises:
        OSError: The new file cannot be written.
        sqlite3.Error: Likewise.
    """
    fault = _fault(path) if path.exists() else None
    if fault is None:
        return None
    fresh, patched = (path.with_name(path.name + end) for end in (".recovering", ".patched"))
    try:
        rescued = _rescue(path, fresh)
        if not rescued["entries"]:  # perhaps no more is wrong than the header, or the end is missing
            _patch(path, patched)
            rescued = _rescue(patched, fresh)
        aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}")
        _exchange(path, fresh, aside)
    finally:
        _remove(fresh)
        _remove(patched)
    return (
        f"The spool's file was damaged ({fault}): {rescued['entries']} entries and {rescued['visits']} visits could be "
        f"read and were taken over; the damaged file is kept as {aside.name}"
    )


def _fault(path: Path) -> str | None:
    """Return what is wrong with a file, or None."""
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            verdict = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.OperationalError:  # locked, no permission, no memory: says nothing about what is in it
        raise
    except sqlite3.DatabaseError as exc:
        return str(exc)
    return None if verdict == "ok" else " ".join(verdict.split())[:200]


def _rescue(path: Path, fresh: Path) -> dict[str, int]:
    """Make a new file with all that can be read of a damaged one."""
    _remove(fresh)
    with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        bring_up_to_date(connection, where=str(fresh))
        return _copy_rows(path, connection)


def _patch(path: Path, patched: Path) -> None:
    """Copy a file, with the header that a spool has, and as many pages as its size says, rounded up."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        bring_up_to_date(connection, where=str(path))
        header = bytearray(connection.serialize()[:_HEADER_BYTES])
    shutil.copyfile(path, patched)
    pages = max(-(-path.stat().st_size // _PAGE_BYTES), _pages_told(path))
    header[28:32] = pages.to_bytes(4, "big")  # the size in pages, valid where the two counters of changes agree
    header[92:96] = header[24:28]
    with patched.open("r+b") as file:
        file.write(header)
        file.truncate(pages * _PAGE_BYTES)


def _pages_told(path: Path) -> int:
    """Return how many pages a file's own header tells, if it is one that can be believed."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    told = int.from_bytes(header[28:32], "big") if header.startswith(b"SQLite format 3") else 0
    return told if told * _PAGE_BYTES < 100 * max(path.stat().st_size, _PAGE_BYTES) else 0


def _copy_rows(path: Path, target: sqlite3.Connection) -> dict[str, int]:
    """Copy every row that can be read and that the target takes; return how many of each table."""
    rescued = dict.fromkeys(_WAYS, 0)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as source:
        target.execute("BEGIN")
        for table in _WAYS:
            common = [name for name in _columns(target, table) if name in _columns(source, table)]
            insert = f"INSERT INTO {table} ({', '.join(common)}) VALUES ({', '.join('?' * len(common))})"  # noqa: S608 - our own names
            for row in _rows(source, table, common):
                with contextlib.suppress(sqlite3.IntegrityError):  # a value that no such row may have
                    target.execute(insert, row)
                    rescued[table] += 1
        target.execute("COMMIT")
    return rescued


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    try:
        return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    except sqlite3.DatabaseError:  # the very first page is broken, or no page of SQLite's
        return []


def _rows(source: sqlite3.Connection, table: str, columns: list[str]) -> Iterator[tuple[object, ...]]:
    for rowid in sorted(_rowids(source, table)) if columns else ():
        with contextlib.suppress(sqlite3.DatabaseError):
            row = source.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE rowid = ?", (rowid,)).fetchone()  # noqa: S608 - our own names
            if row is not None:
                yield row


def _rowids(source: sqlite3.Connection, table: str) -> set[int]:
    """Return the numbers of the rows that any way leads to, from its beginning and from its end."""
    found: set[int] = set()
    for condition, column in _WAYS[table]:
        for order in ("ASC", "DESC"):
            with contextlib.suppress(sqlite3.DatabaseError):  # this way is broken from here on
                query = f"SELECT rowid FROM {table} WHERE {condition} ORDER BY {column} {order}"  # noqa: S608 - our own names
                found.update(rowid for (rowid,) in source.execute(query))
    return found


def _exchange(path: Path, fresh: Path, aside: Path) -> None:
    """Put the fresh file in the place of the damaged one, so that a crash at any moment leaves one of the two there."""
    os.link(path, aside)
    for suffix in ("-wal", "-shm"):  # they belong to the damaged file: SQLite would read them into the fresh one
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    fresh.replace(path)


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
