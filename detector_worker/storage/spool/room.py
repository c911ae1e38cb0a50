"""What the spool may take, and what goes first when there is no room: the oldest pictures, then the oldest visits.

A record says that a vehicle was there, a picture only how it looked; and what is newest is needed most. Where nothing
is left that may go, new entries are refused. Every drop is counted, in the transaction that drops.
"""

import contextlib
import os
import shutil
import sqlite3
import threading
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
# Of those that wait and of the dead letters, each by its own index.
_OLDEST_VISIT: Final = """
SELECT * FROM (
  SELECT seq, visit_id FROM entries
  WHERE sink = 'postgresql' AND dead_reason IS NULL AND kind <> 'EnsureTables' ORDER BY seq LIMIT 1)
UNION ALL SELECT * FROM (
  SELECT seq, visit_id FROM entries
  WHERE dead_reason IS NOT NULL AND sink = 'postgresql' AND kind <> 'EnsureTables' ORDER BY seq LIMIT 1)
ORDER BY seq LIMIT 1
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
        self._log = path.with_name(path.name + "-wal")
        self._tidying = threading.Lock()
        self.quota_bytes = quota_bytes
        self.log_bytes = _LOG_BYTES
        """What SQLite's log may grow to before those who write must wait for it."""

    def make_room(self, connection: sqlite3.Connection, size_bytes: int) -> None:
        """Drop what must go before so many bytes are added; inside the transaction that adds them.

        Raises:
            ServiceError: They are more than the quota, or nothing is left that may be dropped.
        """
        if not size_bytes:  # nothing must be in the way of what makes room
            return
        over_bytes = connection.execute(_TOTAL).fetchone()[0] + size_bytes - self.quota_bytes
        if over_bytes > 0 and _drop(connection, over_bytes + self.quota_bytes // _SLACK) < over_bytes:
            raise ServiceError(
                f"The spool is full: {self.quota_bytes / (1 << 20):.1f} MiB are taken by what may not be dropped",
                where="spool.quota_mb",
                mend="See why nothing is delivered (`detector-worker spool status`), or raise the quota.",
            )
        over_bytes = self._over_disk_bytes(connection) + size_bytes
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
        usage = shutil.disk_usage(self._path.parent)
        free_bytes = usage.free if usage.total else _PLENTY_BYTES
        if free_bytes >= _PLENTY_BYTES:
            return -free_bytes
        page_bytes, pages, unused = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        )
        ours_bytes = free_bytes + pages * page_bytes + (self._log.stat().st_size if self._log.exists() else 0)
        return int((pages - unused) * page_bytes - (ours_bytes - min(2 * self.log_bytes, ours_bytes // 2)))

    def relieve(self, connection: sqlite3.Connection, size_bytes: int) -> None:
        """The disk is full: give up the ballast, shrink the log, and drop more than is to be added, if anything is.

        Raises:
            sqlite3.Error: Not even that is possible.
        """
        self._ballast.unlink(missing_ok=True)
        with self._tidying:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if size_bytes:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    _drop(connection, max(2 * size_bytes, _LEAST_RELEASE_BYTES))
                    connection.execute("COMMIT")
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def tidy_up(self, connection: sqlite3.Connection) -> None:
        """Bring what is in the log into the file, beside those who write; what they add meanwhile waits.

        Never two at a time: SQLite before 3.51.3 may then take old pages of the log for new ones.
        """
        with self._tidying, contextlib.suppress(sqlite3.Error):  # a full disk is found by those who write
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def log_is_long(self) -> bool:
        """True where the log has grown beyond what it may."""
        return self._log.exists() and self._log.stat().st_size > self.log_bytes

    def move_in(self) -> None:
        """Look how large the disk is, and lay down the ballast; the folder is there."""
        total_bytes = shutil.disk_usage(self._path.parent).total or _PLENTY_BYTES  # some file systems do not say
        self.log_bytes = min(_LOG_BYTES, total_bytes // _LOG_SHARE)
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
