"""The durable queue: what is accepted here is on disk, and stays there until its sink has it.

One SQLite file. A key that waits here, or lies among the dead letters, is not taken a second time; that a key
already *delivered* is not delivered again is the business of the sinks (table ``detector_worker.delivered`` in
PostgreSQL, keys ``detector_worker:delivered:*`` in Redis), since only they can decide it together with the write.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import SavedVisit, Sink, SpoolEntry
from detector_worker.storage.spool_codec import (
    EncodedDelivery,
    decode_delivery,
    decode_visit,
    encode_delivery,
    encode_visit,
)
from detector_worker.storage.spool_writer import SpoolWriter, disk_error

__all__ = ["Backlog", "QueuedEntry", "SinkBacklog", "Spool"]

T = TypeVar("T")

_logger = logging.getLogger(__name__)
_VERSION: Final = 1
_STOP_S: Final = 5.0
_SCHEMA: Final = """
CREATE TABLE entries (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, sink TEXT NOT NULL, visit_id TEXT NOT NULL,
  kind TEXT NOT NULL, payload BLOB NOT NULL, picture BLOB, size_bytes INTEGER NOT NULL, created_at REAL NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0);
CREATE INDEX entries_by_sink ON entries (sink, seq, size_bytes);
CREATE TABLE dead_letters (
  seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, sink TEXT NOT NULL, visit_id TEXT NOT NULL, kind TEXT NOT NULL,
  payload BLOB NOT NULL, picture BLOB, size_bytes INTEGER NOT NULL, created_at REAL NOT NULL,
  attempts INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE TABLE visits (
  record_id TEXT PRIMARY KEY, subscription_id TEXT NOT NULL, payload BLOB NOT NULL, last_seen_at REAL NOT NULL);
CREATE INDEX visits_by_subscription ON visits (subscription_id);
CREATE TABLE sequences (subscription_id TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_INSERT: Final = """
INSERT INTO entries (key, sink, visit_id, kind, payload, picture, size_bytes, created_at)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE NOT EXISTS (SELECT 1 FROM dead_letters WHERE key = ?1)
ON CONFLICT (key) DO NOTHING
"""
_OLDEST: Final = """
SELECT seq, key, visit_id, kind, payload, picture, created_at, size_bytes FROM entries
WHERE sink = ? ORDER BY seq LIMIT ?
"""
_BURY: Final = """
INSERT INTO dead_letters (seq, key, sink, visit_id, kind, payload, picture, size_bytes, created_at, attempts, reason)
SELECT seq, key, sink, visit_id, kind, payload, picture, size_bytes, created_at, attempts + 1, ?
FROM entries WHERE seq = ?
"""
_BACKLOG: Final = """
SELECT waiting.sink, waiting.number, waiting.size_bytes, entries.created_at
FROM (SELECT sink, count(*) AS number, sum(size_bytes) AS size_bytes, min(seq) AS oldest FROM entries GROUP BY sink)
AS waiting JOIN entries ON entries.seq = waiting.oldest
"""
_SAVE_VISIT: Final = """
INSERT INTO visits (record_id, subscription_id, payload, last_seen_at) VALUES (?, ?, ?, ?)
ON CONFLICT (record_id) DO UPDATE SET subscription_id = excluded.subscription_id, payload = excluded.payload,
last_seen_at = excluded.last_seen_at
"""
_NEXT_SEQUENCE: Final = """
INSERT INTO sequences (subscription_id, value) VALUES (?, 1)
ON CONFLICT (subscription_id) DO UPDATE SET value = value + 1 RETURNING value
"""


@dataclass(frozen=True, slots=True)
class QueuedEntry:
    """An entry with its place in the queue."""

    seq: int
    entry: SpoolEntry


@dataclass(frozen=True, slots=True)
class SinkBacklog:
    """What waits for one sink."""

    entries: int = 0
    size_bytes: int = 0
    oldest_at: float | None = None
    """Seconds since 1970, UTC; None where nothing waits."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the spool holds."""

    sinks: Mapping[Sink, SinkBacklog]
    dead_letters: int


class Spool:
    """The outbox of the worker. Every coroutine runs on the event loop of `start`.

    Owns two threads: ``spool-writer`` (see `SpoolWriter`) and ``spool-reader``, with a connection each.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = SpoolWriter(path, prepare=_prepare)
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool-reader")
        self._reading: sqlite3.Connection | None = None
        self._news = {sink: asyncio.Event() for sink in Sink}

    async def start(self) -> None:
        """Open the file, or make it.

        Raises:
            ServiceError: It cannot be opened, is no spool, or is one of a later version.
        """
        await self._writer.start()

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA query_only = ON")
            return connection

        self._reading = await asyncio.get_running_loop().run_in_executor(self._reader, connect)

    async def stop(self) -> None:
        """Write what was handed in and close the file, within a few seconds."""
        if not await self._writer.stop(_STOP_S):
            _logger.error("The thread spool-writer did not end within %.0f s", _STOP_S)
        reading, self._reading = self._reading, None
        if reading is not None:
            self._reader.submit(reading.close)
        self._reader.shutdown(wait=False)

    async def accept(self, entries: Sequence[SpoolEntry], *, visit: SavedVisit | None = None) -> None:
        """See `core.outbox.Outbox.accept`."""
        rows = [_row(entry) for entry in entries]
        saved = None if visit is None else _visit_row(visit)
        sinks = {entry.sink for entry in entries}

        def insert(connection: sqlite3.Connection) -> None:
            connection.executemany(_INSERT, rows)
            if saved is not None:
                connection.execute(_SAVE_VISIT, saved)

        await self._writer.write(insert, lambda: self.wake(*sinks))

    async def save_visit(self, visit: SavedVisit) -> None:
        """Keep where a live visit is now."""
        row = _visit_row(visit)
        await self._writer.write(lambda connection: _execute(connection, _SAVE_VISIT, row))

    async def forget_visit(self, record_id: str) -> None:
        """Forget a visit that has ended."""
        await self._writer.write(
            lambda connection: _execute(connection, "DELETE FROM visits WHERE record_id = ?", (record_id,))
        )

    async def live_visits(self, subscription_id: str) -> list[SavedVisit]:
        """Return the visits of a subscription that have not ended; unreadable ones are logged and passed over."""
        query = "SELECT payload, last_seen_at FROM visits WHERE subscription_id = ? ORDER BY rowid"
        rows = await self._read(lambda connection: connection.execute(query, (subscription_id,)).fetchall())
        visits = []
        for payload, last_seen_at in rows:
            try:
                visits.append(decode_visit(subscription_id, payload, last_seen_at))
            except ServiceError as exc:
                _logger.warning("%s", exc)
        return visits

    async def next_sequence(self, subscription_id: str) -> int:
        """Count up by one, on disk, and return the number: 1 for a new subscription."""

        def count(connection: sqlite3.Connection) -> int:
            return int(connection.execute(_NEXT_SEQUENCE, (subscription_id,)).fetchone()[0])

        return await self._writer.write(count)

    async def backlog(self) -> Backlog:
        """Count what waits."""

        def count(connection: sqlite3.Connection) -> Backlog:
            waiting = {Sink(sink): SinkBacklog(*figures) for sink, *figures in connection.execute(_BACKLOG)}
            dead = connection.execute("SELECT count(*) FROM dead_letters").fetchone()[0]
            return Backlog({sink: waiting.get(sink, SinkBacklog()) for sink in Sink}, dead)

        return await self._read(count)

    async def oldest(self, sink: Sink, *, max_entries: int, max_bytes: int) -> list[QueuedEntry]:
        """Return what a sink gets next, oldest first: one entry at least where any waits, then up to the bounds.

        An entry that cannot be read becomes a dead letter. `wait_for_news` tells of what is accepted after
        this call; one caller per sink.
        """
        self._news[sink].clear()

        def read(connection: sqlite3.Connection) -> tuple[list[QueuedEntry], dict[int, str]]:
            found: list[QueuedEntry] = []
            unreadable: dict[int, str] = {}
            room_bytes = max_bytes
            for seq, key, visit_id, kind, payload, picture, created_at, size_bytes in connection.execute(
                _OLDEST, (sink, max_entries)
            ):
                room_bytes -= size_bytes
                if room_bytes < 0 and found:
                    break
                try:
                    delivery = decode_delivery(EncodedDelivery(kind, payload, picture))
                except ServiceError as exc:
                    unreadable[seq] = exc.what
                else:
                    found.append(QueuedEntry(seq, SpoolEntry(key, visit_id, created_at, delivery)))
            return found, unreadable

        while True:
            found, unreadable = await self._read(read)
            for seq, reason in unreadable.items():
                await self.bury(seq, reason)
            if found or not unreadable:
                return found

    async def wait_for_news(self, sink: Sink) -> None:
        """Return when something was accepted for a sink, or `wake` was called, since the last `oldest`."""
        await self._news[sink].wait()

    def wake(self, *sinks: Sink) -> None:
        """End the `wait_for_news` of these sinks."""
        for sink in sinks:
            self._news[sink].set()

    async def remove(self, seqs: Sequence[int]) -> None:
        """Forget entries that their sink has."""
        rows = [(seq,) for seq in seqs]
        await self._writer.write(
            lambda connection: _execute_many(connection, "DELETE FROM entries WHERE seq = ?", rows)
        )

    async def note_attempt(self, seqs: Sequence[int]) -> None:
        """Count an attempt that failed."""
        statement = "UPDATE entries SET attempts = attempts + 1 WHERE seq = ?"
        rows = [(seq,) for seq in seqs]
        await self._writer.write(lambda connection: _execute_many(connection, statement, rows))

    async def bury(self, seq: int, reason: str) -> None:
        """Move an entry that can never be delivered to the dead letters."""

        def move(connection: sqlite3.Connection) -> None:
            connection.execute(_BURY, (reason, seq))
            connection.execute("DELETE FROM entries WHERE seq = ?", (seq,))

        await self._writer.write(move)

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        if self._reading is None:
            raise ServiceError("The spool is not running", where=str(self._path), mend="Start the worker first.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader, query, self._reading)
        except sqlite3.Error as exc:
            raise disk_error(exc, self._path) from exc


def _prepare(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        raise ServiceError(
            f"The spool is of version {version}, this worker knows {_VERSION}",
            where="spool",
            mend="Use the newer worker that wrote it, or another data folder.",
        )
    if version < _VERSION:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")


def _execute(connection: sqlite3.Connection, statement: str, values: Sequence[object]) -> None:
    connection.execute(statement, values)


def _execute_many(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]) -> None:
    connection.executemany(statement, rows)


def _row(entry: SpoolEntry) -> tuple[object, ...]:
    encoded = encode_delivery(entry.delivery)
    what = (encoded.kind, encoded.payload, encoded.picture, encoded.size_bytes)
    return (entry.key, entry.sink, entry.visit_id, *what, entry.created_at)


def _visit_row(saved: SavedVisit) -> tuple[object, ...]:
    return (saved.visit.record_id, saved.subscription_id, encode_visit(saved.visit), saved.last_seen_at)
