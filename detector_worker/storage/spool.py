"""The durable queue: what is accepted here is on disk, and stays there until its sink has it.

One SQLite file. A key that waits here, or is a dead letter, is not taken a second time; that a key already
*delivered* is not delivered again is the business of the sinks (table ``detector_worker.delivered`` in PostgreSQL,
keys ``detector_worker:delivered:*`` in Redis), since only they can decide it together with the write.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import SavedVisit, Sink, SpoolEntry
from detector_worker.storage.spool_codec import decode_delivery, decode_visit, encode_delivery, encode_visit
from detector_worker.storage.spool_file import SpoolFile

__all__ = ["Backlog", "QueuedEntry", "SinkBacklog", "Spool"]

_logger = logging.getLogger(__name__)
_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE entries (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, sink TEXT NOT NULL, visit_id TEXT NOT NULL,
  kind TEXT NOT NULL, payload BLOB NOT NULL, picture BLOB, size_bytes INTEGER NOT NULL, created_at REAL NOT NULL,
  dead_reason TEXT);
CREATE INDEX waiting_entries ON entries (sink, seq, size_bytes) WHERE dead_reason IS NULL;
CREATE INDEX dead_letters ON entries (seq) WHERE dead_reason IS NOT NULL;
CREATE TABLE visits (
  record_id TEXT PRIMARY KEY, subscription_id TEXT NOT NULL, payload BLOB NOT NULL, last_seen_at REAL NOT NULL);
CREATE INDEX visits_by_subscription ON visits (subscription_id);
CREATE TABLE sequences (subscription_id TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_INSERT: Final = """
INSERT INTO entries (key, sink, visit_id, created_at, kind, payload, picture, size_bytes)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING
"""
_OLDEST: Final = """
SELECT seq, size_bytes, key, visit_id, created_at, kind, payload, picture FROM entries
WHERE sink = ? AND dead_reason IS NULL ORDER BY seq LIMIT ?
"""
_BACKLOG: Final = """
SELECT waiting.sink, waiting.number, waiting.size_bytes, entries.created_at
FROM (SELECT sink, count(*) AS number, sum(size_bytes) AS size_bytes, min(seq) AS oldest
  FROM entries WHERE dead_reason IS NULL GROUP BY sink) AS waiting
JOIN entries ON entries.seq = waiting.oldest
"""
_KEEP_VISIT: Final = """
INSERT INTO visits (payload, last_seen_at, record_id, subscription_id) VALUES (?, ?, ?, ?)
ON CONFLICT (record_id) DO UPDATE SET payload = excluded.payload, last_seen_at = excluded.last_seen_at
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
    """What waits for one sink; ``oldest_at`` in seconds since 1970, UTC, None where nothing waits."""

    entries: int = 0
    size_bytes: int = 0
    oldest_at: float | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the spool holds."""

    sinks: Mapping[Sink, SinkBacklog]
    dead_letters: int


class Spool:
    """The outbox of the worker. Every coroutine runs on the event loop of `start` and may raise `ServiceError`."""

    def __init__(self, path: Path) -> None:
        self._file = SpoolFile(path)
        self._news = {sink: asyncio.Event() for sink in Sink}

    async def start(self) -> None:
        """Open the file, or make it; ServiceError where it is no spool, or one of another version."""
        await self._file.open(schema=_SCHEMA, version=_VERSION)

    async def stop(self) -> None:
        """Write what was handed in and close the file, within a few seconds."""
        await self._file.close()

    async def accept(self, entries: Sequence[SpoolEntry], *, visit: SavedVisit | None = None) -> None:
        """See `core.outbox.Outbox.accept`."""
        rows = [_row(entry) for entry in entries]
        visits = [] if visit is None else [(*_visit_row(visit), visit.subscription_id)]

        def insert(connection: sqlite3.Connection) -> None:
            connection.executemany(_INSERT, rows)
            connection.executemany(_KEEP_VISIT, visits)

        await self._file.write(insert, lambda: self.wake(*{entry.sink for entry in entries}))

    async def save_visit(self, visit: SavedVisit) -> None:
        """See `core.outbox.Outbox.save_visit`."""
        await self._change("UPDATE visits SET payload = ?, last_seen_at = ? WHERE record_id = ?", _visit_row(visit))

    async def forget_visit(self, record_id: str) -> None:
        """Forget a visit that has ended."""
        await self._change("DELETE FROM visits WHERE record_id = ?", (record_id,))

    async def live_visits(self, subscription_id: str) -> list[SavedVisit]:
        """Return the visits of a subscription that have not ended; unreadable ones are logged and passed over."""
        query = "SELECT payload, last_seen_at FROM visits WHERE subscription_id = ? ORDER BY rowid"
        rows = await self._file.read(lambda connection: connection.execute(query, (subscription_id,)).fetchall())
        visits = []
        for payload, last_seen_at in rows:
            try:
                visits.append(SavedVisit(subscription_id, decode_visit(payload), last_seen_at))
            except ServiceError as exc:
                _logger.warning("Subscription %s may record an object again: %s", subscription_id, exc)
        return visits

    async def next_sequence(self, subscription_id: str) -> int:
        """Count up by one, on disk, and return the number: 1 for a new subscription."""

        def count(connection: sqlite3.Connection) -> int:
            return int(connection.execute(_NEXT_SEQUENCE, (subscription_id,)).fetchone()[0])

        return await self._file.write(count)

    async def backlog(self) -> Backlog:
        """Count what waits."""

        def count(connection: sqlite3.Connection) -> Backlog:
            waiting = {Sink(sink): SinkBacklog(*figures) for sink, *figures in connection.execute(_BACKLOG)}
            dead = connection.execute("SELECT count(*) FROM entries WHERE dead_reason IS NOT NULL").fetchone()[0]
            return Backlog({sink: waiting.get(sink, SinkBacklog()) for sink in Sink}, dead)

        return await self._file.read(count)

    async def oldest(self, sink: Sink, *, max_entries: int, max_bytes: int) -> list[QueuedEntry]:
        """Return what a sink gets next, oldest first: one entry at least where any waits, then up to the bounds.

        An entry that cannot be read becomes a dead letter. `wait_for_news` tells of what is accepted after this call;
        one caller per sink.
        """
        self._news[sink].clear()

        def read(connection: sqlite3.Connection) -> tuple[list[QueuedEntry], dict[int, str]]:
            found: list[QueuedEntry] = []
            unreadable: dict[int, str] = {}
            room_bytes = max_bytes
            for seq, size_bytes, key, visit_id, created_at, *encoded in connection.execute(
                _OLDEST, (sink, max_entries)
            ):
                room_bytes -= size_bytes
                if room_bytes < 0 and found:
                    break
                try:
                    found.append(QueuedEntry(seq, SpoolEntry(key, visit_id, created_at, decode_delivery(*encoded))))
                except ServiceError as exc:
                    unreadable[seq] = exc.what
            return found, unreadable

        while True:
            found, unreadable = await self._file.read(read)
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
        await self._change("DELETE FROM entries WHERE seq = ?", *((seq,) for seq in seqs))

    async def bury(self, seq: int, reason: str) -> None:
        """Make an entry that can never be delivered a dead letter."""
        await self._change("UPDATE entries SET dead_reason = ? WHERE seq = ?", (reason, seq))

    async def _change(self, statement: str, *rows: Sequence[object]) -> None:
        def change(connection: sqlite3.Connection) -> None:
            connection.executemany(statement, rows)

        await self._file.write(change)


def _row(entry: SpoolEntry) -> tuple[object, ...]:
    kind, payload, picture = encode_delivery(entry.delivery)
    size_bytes = len(payload) + len(picture or b"")
    return (entry.key, entry.sink, entry.visit_id, entry.created_at, kind, payload, picture, size_bytes)


def _visit_row(saved: SavedVisit) -> tuple[object, ...]:
    return (encode_visit(saved.visit), saved.last_seen_at, saved.visit.record_id)
