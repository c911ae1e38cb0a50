"""What the spool may take, and what goes first when there is no room: the oldest pictures, then the oldest visits.

A record says that a vehicle was there, a picture only how it looked; and what is newest is needed most. Where nothing
is left that may go, new entries are refused. Every drop is counted, in the transaction that drops.
"""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Final

from detector_worker.core.exceptions import ServiceError

__all__ = ["DEFAULT_QUOTA_BYTES", "EXPIRED", "REMOVED", "SpoolRoom", "count"]

DEFAULT_QUOTA_BYTES: Final = 4 << 30
DROPPED_PICTURES: Final = "dropped_pictures"
DROPPED_RECORDS: Final = "dropped_records"
EXPIRED: Final = "expired"
REMOVED: Final = "removed"
"""By an operator."""
_BALLAST_BYTES: Final = 16 << 20
_BALLAST_SHARE: Final = 4
_SLACK: Final = 50  # a fiftieth of the quota more than is needed, so that not every entry has to make room
_LEAST_RELEASE_BYTES: Final = 256 << 10
_LOG_BYTES: Final = 16 << 20
_LOG_SHARE: Final = 8  # of a small disk
_PLENTY_BYTES: Final = 256 << 20
_TOTAL: Final = "SELECT coalesce(sum(size_bytes), 0) FROM totals"
_OLDEST_PICTURES: Final = "SELECT seq, size_bytes FROM entries WHERE kind = 'StoreImage' ORDER BY seq"
# Whole visits: an update whose record was dropped could never be delivered. Keys begin with their visit's id.
_OLDEST_VISIT: Final = """
SELECT seq, visit_id FROM entries WHERE sink = 'postgresql' AND kind <> 'EnsureTables' ORDER BY seq LIMIT 1
"""
_DROP_VISIT: Final = """
DELETE FROM entries WHERE seq = ?1 OR (key > ?2 || ':' AND key < ?2 || ';' AND sink = 'postgresql')
RETURNING size_bytes
"""
_COUNT: Final = "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"


def count(connection: sqlite3.Connection, name: str, number: int) -> None:
    """Add to a count that outlives restarts."""
    if number:
        connection.execute(_COUNT, (name, number))


class SpoolRoom:
    """Keeps the spool within its quota, and a ballast file for the moment when the disk itself is full.

    On a full disk SQLite can not even delete: the ballast is given up then, so that it can. Used on the spool's thread.
    """

    def __init__(self, path: Path, *, quota_bytes: int) -> None:
        """``path``: of the spool's file; the ballast lies beside it. ``quota_bytes``: of all entries together."""
        self._path, self._ballast = path, path.with_name(path.name + ".ballast")
        self.quota_bytes = quota_bytes
        self.log_bytes = _LOG_BYTES
        """What SQLite's log may grow to before those who write must wait for it."""

    def make_room(self, connection: sqlite3.Connection, size_bytes: int) -> None:
        """Drop what must go before so many bytes are added; inside the transaction that adds them.

        Raises:
            ServiceError: They are more than the quota, or nothing is left that may be dropped.
        """
        over_bytes = connection.execute(_TOTAL).fetchone()[0] + size_bytes - self.quota_bytes
        if over_bytes > 0 and _drop(connection, over_bytes + self.quota_bytes // _SLACK) < over_bytes:
            raise ServiceError(
                f"The spool is full: {self.quota_bytes / (1 << 20):.1f} MiB are taken by what may not be dropped",
                where="spool.quota_mb",
                mend="See why nothing is delivered (`detector-worker spool status`), or raise the quota.",
            )
        over_bytes = self._over_disk_bytes(connection) + size_bytes if size_bytes else 0
        if over_bytes > 0 and _drop(connection, over_bytes) < over_bytes:
            raise ServiceError(
                "The disk of the spool is full, and nothing is left that may be dropped",
                where=str(self._path.parent),
                mend="Make room on it.",
            )

    def _over_disk_bytes(self, connection: sqlite3.Connection) -> int:
        """By how much the entries exceed what the disk can hold of them beside the log; mostly less than nothing.

        The log must always find room: where it can neither grow nor be brought into the file, nothing can be deleted
        either, not even what was delivered.
        """
        free_bytes = shutil.disk_usage(self._path.parent).free
        if free_bytes > _PLENTY_BYTES:
            return -free_bytes
        page_bytes, pages, unused = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        )
        log = self._path.with_name(self._path.name + "-wal")
        ours_bytes = free_bytes + pages * page_bytes + (log.stat().st_size if log.exists() else 0)
        return int((pages - unused) * page_bytes - (ours_bytes - min(2 * self.log_bytes, ours_bytes // 2)))

    def relieve(self, connection: sqlite3.Connection, size_bytes: int) -> None:
        """The disk is full: give up the ballast, shrink the log, and drop more than is to be added, if anything is.

        Raises:
            sqlite3.Error: Not even that is possible.
        """
        self._ballast.unlink(missing_ok=True)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if size_bytes:
            connection.execute("BEGIN IMMEDIATE")
            _drop(connection, max(2 * size_bytes, _LEAST_RELEASE_BYTES))
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def move_in(self) -> None:
        """Look how large the disk is, and lay down the ballast; the folder is there."""
        self.log_bytes = min(_LOG_BYTES, shutil.disk_usage(self._path.parent).total // _LOG_SHARE)
        self.restore_ballast()

    def restore_ballast(self) -> None:
        """Lay the ballast down again, where it is missing and the disk has plenty of room."""
        with contextlib.suppress(OSError):  # another time
            lies_bytes = self._ballast.stat().st_size if self._ballast.exists() else 0
            free_bytes = shutil.disk_usage(self._ballast.parent).free + lies_bytes
            wanted_bytes = min(_BALLAST_BYTES, free_bytes // _BALLAST_SHARE)
            if lies_bytes < wanted_bytes // 2:
                _lay_down(self._ballast, wanted_bytes)


def _drop(connection: sqlite3.Connection, wanted_bytes: int) -> int:
    """Drop the oldest pictures, then the oldest visits, until so many bytes are free; return how many are."""
    freed_bytes, pictures = 0, []
    for seq, size_bytes in connection.execute(_OLDEST_PICTURES):
        if freed_bytes >= wanted_bytes:
            break
        pictures.append((seq,))
        freed_bytes += size_bytes
    connection.executemany("DELETE FROM entries WHERE seq = ?", pictures)
    count(connection, DROPPED_PICTURES, len(pictures))
    while freed_bytes < wanted_bytes and (oldest := connection.execute(_OLDEST_VISIT).fetchone()):
        sizes = connection.execute(_DROP_VISIT, oldest).fetchall()
        count(connection, DROPPED_RECORDS, len(sizes))
        freed_bytes += sum(size_bytes for (size_bytes,) in sizes)
    return freed_bytes


def _lay_down(path: Path, size_bytes: int) -> None:
    """Write a file that really takes its size, which a sparse one would not."""
    block = bytes(1 << 20)
    with path.open("wb", buffering=0) as file:
        for start in range(0, size_bytes, len(block)):
            file.write(block[: size_bytes - start])
        os.fsync(file.fileno())
