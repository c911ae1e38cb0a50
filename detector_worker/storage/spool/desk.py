"""The spool as people see it: looked at, mended and cleared from the command line, also while a worker runs.

A connection of its own beside the worker's. It never makes the file, nor brings one of an earlier version up to date.
What it changes, it changes in small portions, and leaves half of the time to the worker, whose writes wait meanwhile.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import CreateRecord, Sink
from detector_worker.storage.spool.backlog import Backlog, read_backlog
from detector_worker.storage.spool.room import REMOVED, count
from detector_worker.storage.spool.schema import VERSION

__all__ = ["FiledContent", "FiledEntry", "SpoolDesk"]

_BUSY_S: Final = 5.0
_PORTION: Final = 100
_COLUMNS: Final = "seq, key, sink, visit_id, kind, size_bytes, created_at, expires_at, attempts, dead_reason, dead_at"
_LIST: Final = f"""
SELECT {_COLUMNS} FROM entries
WHERE (?1 IS NULL OR sink = ?1) AND (?2 IS NULL OR visit_id = ?2) AND %s ORDER BY seq LIMIT ?3
"""  # noqa: S608 - our own names
# Keys begin with their visit's id: its entries are found by the index on keys.
_LATER_OF_VISIT: Final = """
SELECT seq, payload FROM entries
WHERE key > ?1 || ':' AND key < ?1 || ';' AND sink = ?2 AND seq > ?3 AND kind <> ?4
"""
_REVIVE: Final = "UPDATE entries SET dead_reason = NULL, dead_at = NULL WHERE seq = ? AND dead_reason IS NOT NULL"


@dataclass(frozen=True, slots=True)
class FiledEntry:
    """One entry without its contents; times in seconds since 1970, UTC.

    ``dead_reason``: why it is a dead letter, and ``dead_at`` since when; None where it waits.
    """

    seq: int
    key: str
    sink: str
    visit_id: str
    kind: str
    size_bytes: int
    created_at: float
    expires_at: float | None
    attempts: int
    dead_reason: str | None
    dead_at: float | None


@dataclass(frozen=True, slots=True)
class FiledContent:
    """One entry with what it holds; a payload that is no JSON is told as ``{"unreadable": hex}``."""

    entry: FiledEntry
    payload: Any
    picture: bytes | None


class SpoolDesk:
    """One look into a spool's file, as a context manager. Every method may raise `ServiceError`."""

    def __init__(self, path: Path, *, quota_bytes: int) -> None:
        """``quota_bytes``: what the worker allows the spool, for `status`."""
        self._path, self._quota_bytes = path, quota_bytes

    def __enter__(self) -> Self:
        with self._translated():
            if not self._path.is_file():
                raise ServiceError(
                    "There is no spool here",
                    where=str(self._path),
                    mend="Give the worker's data folder with --data-dir; one in which no worker ever ran has none.",
                )
            address = f"{self._path.absolute().as_uri()}?mode=rw"
            self._connection = sqlite3.connect(address, uri=True, timeout=_BUSY_S, isolation_level=None)
        try:
            self._check_version()
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def status(self) -> Backlog:
        """Tell what waits and what was lost; what this start of the worker has accepted, only it knows."""
        with self._translated():
            return read_backlog(self._connection, self._quota_bytes)

    def entries(
        self,
        *,
        sink: Sink | None = None,
        visit_id: str | None = None,
        dead_only: bool = False,
        limit: int | None = None,
    ) -> list[FiledEntry]:
        """Return the oldest entries, up to a number of them, None: all."""
        statement = _LIST % ("dead_reason IS NOT NULL" if dead_only else "true")
        rows = self._rows(statement, (sink, visit_id, -1 if limit is None else limit))
        return [FiledEntry(*row) for row in rows]

    def numbers(self, *, dead_only: bool = False) -> list[int]:
        """Return the ``seq`` of all entries, oldest first."""
        condition = "WHERE dead_reason IS NOT NULL" if dead_only else ""
        return [seq for (seq,) in self._rows(f"SELECT seq FROM entries {condition} ORDER BY seq")]  # noqa: S608 - ours

    def find(self, names: Sequence[str]) -> list[FiledEntry]:
        """Return the entries that are called by key, or by ``seq`` as digits.

        Raises:
            ServiceError: One is not there; all that are not are named.
        """
        found, missing = dict[int, FiledEntry](), []
        statement = f"SELECT {_COLUMNS} FROM entries WHERE key = ?1 OR seq = ?2 ORDER BY key = ?1 DESC LIMIT 1"  # noqa: S608 - ours
        for name in names:
            for row in (rows := self._rows(statement, (name, _as_seq(name)))):
                found[row[0]] = FiledEntry(*row)
            if not rows:
                missing.append(ascii(name))
        if missing:
            raise ServiceError(
                f"There is no entry {', '.join(missing)}",
                where=str(self._path),
                mend="It may be delivered by now; `detector-worker spool list` shows what is here.",
            )
        return [found[seq] for seq in sorted(found)]

    def content(self, seq: int) -> FiledContent | None:
        """Return an entry with what it holds; None: it is gone."""
        rows = self._rows(f"SELECT {_COLUMNS}, payload, picture FROM entries WHERE seq = ?", (seq,))  # noqa: S608 - ours
        for *columns, payload, picture in rows:
            return FiledContent(FiledEntry(*columns), _decoded(payload), picture)
        return None

    def retry(self, names: Sequence[str] | None) -> int:
        """Let dead letters wait again, at their old places in the queue; return how many.

        Those that are named, each with all others of its visit in its sink: what was not to be delivered without it.
        None: all. The drainers of a running worker find them within a second.
        """
        if names is None:
            return self._in_portions(self.numbers(dead_only=True), _revive)
        visits = {(entry.sink, entry.visit_id) for entry in self.find(names)}
        dead = self._rows("SELECT seq, sink, visit_id FROM entries WHERE dead_reason IS NOT NULL ORDER BY seq")
        revived = self._in_portions([seq for seq, *visit in dead if tuple(visit) in visits], _revive)
        if not revived:
            raise ServiceError(
                "None of these is a dead letter",
                where=str(self._path),
                mend="What waits is tried again by itself; `detector-worker spool list --dead` shows dead letters.",
            )
        return revived

    def doomed(self, names: Sequence[str] | None) -> list[FiledEntry]:
        """Return what goes if these entries are dropped, None: all dead letters.

        With a record go its visit's later updates of the same table: without it, none of them can be delivered.
        """
        chosen = self.entries(dead_only=True) if names is None else self.find(names)
        going = {entry.seq: entry for entry in chosen}
        for entry in chosen:
            if entry.kind == CreateRecord.__name__:
                going.update((update.seq, update) for update in self._updates_of(entry))
        return [going[seq] for seq in sorted(going)]

    def drop(self, entries: Sequence[FiledEntry]) -> int:
        """Take entries out for good and count them as removed; return how many were still there."""
        return self._in_portions([entry.seq for entry in entries], _remove)

    def _updates_of(self, record: FiledEntry) -> Iterator[FiledEntry]:
        content = self.content(record.seq)
        if content is None:
            return
        rows = self._rows(_LATER_OF_VISIT, (record.visit_id, record.sink, record.seq, record.kind))
        for seq, payload in rows:
            if _table(_decoded(payload)) == _table(content.payload) and (update := self.content(seq)):
                yield update.entry

    def _in_portions(self, seqs: Sequence[int], work: Callable[[sqlite3.Connection, Sequence[int]], int]) -> int:
        done, took_s = 0, 0.0
        for start in range(0, len(seqs), _PORTION):
            time.sleep(took_s)
            began_s = time.monotonic()
            with self._transaction() as connection:
                done += work(connection, seqs[start : start + _PORTION])
            took_s = time.monotonic() - began_s
        return done

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with self._translated():
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise ServiceError(
                f"The spool cannot be used: {exc}",
                where=str(self._path),
                mend="Run this as the worker's user. If the file is damaged, start the worker: it saves what it can.",
            ) from exc

    def _check_version(self) -> None:
        found = self._rows("PRAGMA user_version")[0][0]
        if found != VERSION:
            older = "Start the worker once: it brings the file up to date."
            raise ServiceError(
                f"The spool is of version {found}, this command knows {VERSION}",
                where=str(self._path),
                mend=older if found < VERSION else "Use the command of the worker that wrote it.",
            )


def _revive(connection: sqlite3.Connection, seqs: Sequence[int]) -> int:
    return connection.executemany(_REVIVE, [(seq,) for seq in seqs]).rowcount


def _remove(connection: sqlite3.Connection, seqs: Sequence[int]) -> int:
    removed = connection.executemany("DELETE FROM entries WHERE seq = ?", [(seq,) for seq in seqs]).rowcount
    count(connection, REMOVED, removed)
    return removed


def _as_seq(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdigit() and len(name) < len(str(2**63)) else None


def _decoded(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return {"unreadable": payload.hex()}


def _table(payload: Any) -> object:
    return payload.get("table") if isinstance(payload, dict) else None
