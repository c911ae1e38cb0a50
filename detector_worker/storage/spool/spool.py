"""The durable queue: what is accepted here is on disk, and stays there until its sink has it.

One SQLite file. A key that waits here, or is a dead letter, is not taken a second time; that a key already
*delivered* is not delivered again is the business of the sinks (table ``detector_worker.delivered`` in PostgreSQL,
keys ``detector_worker:delivered:*`` in Redis), since only they can decide it together with the write.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import SavedVisit, Sink, SpoolEntry
from detector_worker.storage.spool.backlog import Backlog, read_backlog
from detector_worker.storage.spool.codec import decode_visit, encode_delivery, encode_visit
from detector_worker.storage.spool.file import SpoolFile
from detector_worker.storage.spool.reading import QueuedEntry, read_next
from detector_worker.storage.spool.room import DEFAULT_QUOTA_BYTES, EXPIRED, count

__all__ = ["QueuedEntry", "Spool"]

_log: Final = logging.getLogger(__name__)
_ENTRY_BYTES: Final = 500  # what an entry takes on disk besides its contents: measured, rounded up
_LOOK_AGAIN_S: Final = 1.0
_MANY_PER_S: Final = 500
_FORGET_AT_ONCE: Final = 500
_INSERT: Final = """
INSERT INTO entries (key, sink, visit_id, created_at, expires_at, kind, payload, picture, size_bytes)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING
"""
_FORGET: Final = "DELETE FROM entries WHERE seq IN (SELECT value FROM json_each(?))"
_EXPIRED: Final = "DELETE FROM entries WHERE expires_at <= ? AND dead_reason IS NULL"
_BURY: Final = "UPDATE entries SET dead_reason = ?, dead_at = ?, attempts = attempts + ? WHERE seq = ?"
# A run that is made again after a crash is the last: it may have been what has crashed.
_KEEP_VISIT: Final = """
INSERT INTO visits (payload, last_seen_at, is_complete, record_id, subscription_id) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (record_id) DO UPDATE SET payload = excluded.payload, last_seen_at = excluded.last_seen_at, is_complete = 1
"""
_REFRESH_VISIT: Final = """
UPDATE visits SET payload = CASE WHEN ?2 >= last_seen_at THEN ?1 ELSE payload END,
  last_seen_at = max(last_seen_at, ?2), is_complete = max(is_complete, ?3) WHERE record_id = ?4
"""
_NEXT_SEQUENCE: Final = """
INSERT INTO sequences (subscription_id, value) VALUES (?, 1)
ON CONFLICT (subscription_id) DO UPDATE SET value = value + 1 RETURNING value
"""


class Spool:
    """The outbox of the worker. Every coroutine runs on the event loop of `start` and may raise `ServiceError`."""

    def __init__(self, path: Path, *, quota_bytes: int = DEFAULT_QUOTA_BYTES) -> None:
        self.file = SpoolFile(path, quota_bytes=quota_bytes)
        self._news = {sink: asyncio.Event() for sink in Sink}
        self.accepted: Counter[Sink] = Counter()
        """Entries since the start, by sink."""
        self._refused = 0
        self._second, self._in_this_second, self._in_the_last = 0, 0, 0

    async def start(self) -> None:
        """Open the file, or make it; ServiceError where it cannot be used, or is of a later version.

        A damaged one is set aside, and what could be read is taken over: that is logged as an error.
        """
        damage = await self.file.open()
        if damage is not None:
            _log.error("%s", damage)

    async def stop(self) -> None:
        """Write what was handed in and close the file, within a few seconds."""
        await self.file.close()

    async def accept(
        self,
        entries: Sequence[SpoolEntry],
        *,
        visit: SavedVisit | None = None,
        also: Callable[[sqlite3.Connection], object] | None = None,
    ) -> None:
        """See `core.outbox.Outbox.accept`; ``also`` writes more in the same transaction."""
        rows = [_row(entry) for entry in entries]
        visits = [] if visit is None else [(*_visit_row(visit), visit.subscription_id)]

        def insert(connection: sqlite3.Connection) -> None:
            connection.executemany(_INSERT, rows)
            connection.executemany(_KEEP_VISIT, visits)
            if also is not None:
                also(connection)

        def tell() -> None:
            self.wake(*{entry.sink for entry in entries})

        try:
            await self.file.write(insert, on_commit=tell, size_bytes=sum(row[-1] for row in rows))
        except ServiceError:
            self._refused += len(entries)
            raise
        self.accepted.update(entry.sink for entry in entries)
        self._count_second(len(entries))

    def insert(self, connection: sqlite3.Connection, entries: Sequence[SpoolEntry]) -> None:
        """Add entries from within an ``also``; whoever waits for them is to be woken."""
        connection.executemany(_INSERT, [_row(entry) for entry in entries])

    @property
    def is_in_use(self) -> bool:
        """Whether some wait for their acceptance now and then, for whom those who empty the spool should give way.

        Not where so much is accepted that it is more important to keep up with it.
        """
        self._count_second(0)
        return 0 < self._in_this_second + self._in_the_last < _MANY_PER_S

    def _count_second(self, accepted: int) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._in_the_last = self._in_this_second if second == self._second + 1 else 0
            self._second, self._in_this_second = second, 0
        self._in_this_second += accepted

    async def save_visit(self, visit: SavedVisit) -> None:
        """See `core.outbox.Outbox.save_visit`."""
        await self._change(_REFRESH_VISIT, _visit_row(visit))

    async def forget_visit(self, record_id: str) -> None:
        """Forget a visit that has ended."""
        await self._change("DELETE FROM visits WHERE record_id = ?", (record_id,))

    async def live_visits(self, subscription_id: str) -> list[SavedVisit]:
        """Return the visits of a subscription that have not ended; unreadable ones are logged and passed over."""
        query = "SELECT payload, last_seen_at, is_complete FROM visits WHERE subscription_id = ? ORDER BY rowid"
        rows = await self.file.read(lambda connection: connection.execute(query, (subscription_id,)).fetchall())
        visits = []
        for payload, last_seen_at, is_complete in rows:
            try:
                visits.append(SavedVisit(subscription_id, decode_visit(payload), last_seen_at, bool(is_complete)))
            except ServiceError as exc:
                _log.warning("Subscription %s may record an object again: %s", subscription_id, exc)
        return visits

    async def next_sequence(self, subscription_id: str) -> int:
        """Count up by one, on disk, and return the number: 1 for a new subscription."""

        def count_up(connection: sqlite3.Connection) -> int:
            return int(connection.execute(_NEXT_SEQUENCE, (subscription_id,)).fetchone()[0])

        return await self.file.write(count_up)

    async def backlog(self) -> Backlog:
        """Tell what waits; as quick for a hundred thousand entries as for one."""

        def look(connection: sqlite3.Connection) -> Backlog:
            quota_bytes = self.file.room.quota_bytes
            return read_backlog(connection, quota_bytes, accepted=self.accepted.total(), refused=self._refused)

        return await self.file.read(look)

    async def oldest(self, sink: Sink, *, max_entries: int, max_bytes: int, after: int = 0) -> list[QueuedEntry]:
        """Return what a sink gets next, oldest first: one entry at least where any waits, then up to the bounds.

        Only what comes ``after`` a place in the queue, and is not too old by now. An entry that cannot be read becomes
        a dead letter. `wait_for_news` tells of what is accepted after this call; one caller per sink.
        """
        self._news[sink].clear()

        def read(connection: sqlite3.Connection) -> tuple[list[QueuedEntry], dict[int, str]]:
            return read_next(connection, sink, after=after, max_entries=max_entries, max_bytes=max_bytes)

        while True:
            found, unreadable = await self.file.read(read)
            for seq, reason in unreadable.items():
                await self.bury(seq, reason, attempts=0)
            if found or not unreadable:
                return found

    async def wait_for_news(self, sink: Sink) -> None:
        """Return when something was accepted for a sink, or `wake` was called, since the last `oldest`.

        Or after a second: another process (`detector-worker spool retry`) can wake nobody.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN_S):
                await self._news[sink].wait()

    def wake(self, *sinks: Sink) -> None:
        """End the `wait_for_news` of these sinks."""
        for sink in sinks:
            self._news[sink].set()

    async def remove(self, seqs: Sequence[int]) -> int:
        """Forget entries that their sink has, and return how many were there; a crash may bring them back to it."""
        chunks = (seqs[start : start + _FORGET_AT_ONCE] for start in range(0, len(seqs), _FORGET_AT_ONCE))

        async def forget(chunk: Sequence[int]) -> int:
            named = orjson.dumps(chunk).decode()
            return await self.file.forget(lambda connection: connection.execute(_FORGET, (named,)).rowcount)

        return sum(await asyncio.gather(*map(forget, chunks)))

    async def drop_expired(self) -> int:
        """Drop and count what is too old by now, whether or not its sink is there; return how many that were."""

        def drop(connection: sqlite3.Connection) -> int:
            dropped = connection.execute(_EXPIRED, (time.time(),)).rowcount
            count(connection, EXPIRED, dropped)
            return dropped

        return await self.file.forget(drop)

    async def bury(self, seq: int, reason: str, *, attempts: int) -> None:
        """Make an entry that can never be delivered as it is a dead letter."""
        await self._change(_BURY, (reason, time.time(), attempts, seq))

    async def _change(self, statement: str, row: Sequence[object]) -> None:
        await self.file.write(lambda connection: connection.execute(statement, row))


def _row(entry: SpoolEntry) -> tuple[Any, ...]:
    kind, payload, picture = encode_delivery(entry.delivery)
    size_bytes = len(payload) + len(picture or b"") + _ENTRY_BYTES
    times = (entry.created_at, entry.expires_at)
    return (entry.key, entry.sink, entry.visit_id, *times, kind, payload, picture, size_bytes)


def _visit_row(saved: SavedVisit) -> tuple[object, ...]:
    return (encode_visit(saved.visit), saved.last_seen_at, saved.is_complete, saved.visit.record_id)
