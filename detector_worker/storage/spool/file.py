"""The spool's one file, and the three threads that touch it: one writes, one reads, one tidies up the log.

What arrives while a group is on its way to the disk makes the next group: a lone write waits for one fsync, and a
thousand writers share one; none waits longer than for the group before its own. A group that fails is tried again one
by one, so that a bad job harms no other. To forget what was delivered is not worth an fsync: if that is lost in a
crash, the sinks know what they have. SQLite would bring its log into the file in the middle of somebody's write, which
then takes twenty times as long: that is done beside the writes, and by them only where it does not keep up.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from detector_worker.core.exceptions import ServiceError
from detector_worker.storage.spool.recovery import mend_if_damaged
from detector_worker.storage.spool.room import SpoolRoom
from detector_worker.storage.spool.schema import bring_up_to_date

__all__ = ["SpoolFile"]

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)
_MAX_GROUP: Final = 200
_MAX_GROUP_BYTES: Final = 1 << 20
_MAX_PENDING: Final = 1_000
_BUSY_S: Final = 5.0
_CLOSE_S: Final = 5.0
_COMMIT_BYTES: Final = 32 << 10  # of the log, besides what is in the entries


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    settled: asyncio.Future[Any]
    on_commit: Callable[[], None]
    size_bytes: int


class SpoolFile:
    """Owns the threads ``spool``, ``spool reader`` and ``spool log``; whatever fails is a `ServiceError`.

    Used on one event loop. At most 1,000 writes wait in it; whoever comes then waits for a place.
    """

    def __init__(self, path: Path, *, quota_bytes: int) -> None:
        self._path = path
        self.room = SpoolRoom(path, quota_bytes=quota_bytes)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self._reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool reader")
        self._tidying = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool log")
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._tidier: sqlite3.Connection | None = None
        self._logged_bytes = 0  # since the log was tidied up last
        self._pending: deque[_Job] = deque()  # bounded by the places
        self._forgetting: deque[_Job] = deque()  # likewise
        self._places = asyncio.Semaphore(_MAX_PENDING)

    async def open(self) -> str | None:
        """Open the file, or make it; return what was wrong with one that was damaged."""

        def connect() -> tuple[str | None, sqlite3.Connection, sqlite3.Connection, sqlite3.Connection]:
            self.room.move_in()
            damage = mend_if_damaged(self._path)
            self._path.touch(mode=0o600)  # pictures and plates; SQLite gives its other files the same mode
            self._path.chmod(0o600)
            writer = self._connect()
            try:
                writer.execute("PRAGMA journal_mode = WAL")
                writer.execute("PRAGMA wal_autocheckpoint = 0")
                writer.execute(f"PRAGMA journal_size_limit = {self.room.log_bytes}")
                writer.execute("PRAGMA secure_delete = OFF")  # some builds write zeros over all that is forgotten
                bring_up_to_date(writer, where=str(self._path))
                reader = self._connect()
                reader.execute("PRAGMA cache_size = -256")  # it reads each page once: a small cache stays in the CPU's
                # A damaged text must not fail the whole batch: what is made of it is no JSON, and found out alone.
                reader.text_factory = lambda text: text.decode(errors="replace")
            except BaseException:
                writer.close()
                raise
            return damage, writer, reader, self._connect()

        damage, self._writer, self._reader, self._tidier = await self._in_thread(self._thread, connect)
        return damage

    async def close(self) -> None:
        """Write what was handed in and close the file, within a few seconds."""
        threads = (self._tidying, self._reading, self._thread)
        connections = (self._tidier, self._reader, self._writer)
        self._tidier = self._reader = self._writer = None
        try:
            async with asyncio.timeout(_CLOSE_S):
                for thread, connection in zip(threads, connections, strict=True):  # the last one tidies up
                    if connection is not None:
                        await asyncio.get_running_loop().run_in_executor(thread, connection.close)
        except TimeoutError:
            _log.error("The spool's file was not closed within %.0f s: %s", _CLOSE_S, self._path)
        for thread in threads:
            thread.shutdown(wait=False)

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Return what a query finds; it sees every write that was acknowledged."""
        connection = self._opened(self._reader)
        return await self._in_thread(self._reading, lambda: query(connection))

    async def write(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        on_commit: Callable[[], None] = lambda: None,
        size_bytes: int = 0,
    ) -> T:
        """Carry out ``work`` in a transaction, with others', and return its value once it is on disk.

        A caller who is cancelled meanwhile does not take the work back; ``on_commit`` runs on the event loop all the
        same. ``size_bytes``: what it adds, for which room is made where there is none.
        """
        return await self._enter(self._pending, work, on_commit, size_bytes)

    async def forget(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Carry out a small deletion after all writes that wait; a crash may undo it, but not the order of things."""
        return await self._enter(self._forgetting, work, lambda: None, 0)

    async def _enter(
        self,
        queue: deque[_Job],
        work: Callable[[sqlite3.Connection], T],
        on_commit: Callable[[], None],
        size_bytes: int,
    ) -> T:
        async with self._places:
            connection, loop = self._opened(self._writer), asyncio.get_running_loop()
            settled: asyncio.Future[T] = loop.create_future()
            queue.append(_Job(work, settled, on_commit, size_bytes))
            self._thread.submit(self._commit_next, connection, loop)
            return await settled

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)

    def _opened(self, connection: sqlite3.Connection | None) -> sqlite3.Connection:
        if connection is None:
            raise ServiceError("The spool is not running", where=str(self._path), mend="Start the worker first.")
        return connection

    async def _in_thread(self, thread: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, call)
        except (sqlite3.Error, OSError) as exc:
            raise self._error(exc) from exc

    def _error(self, exc: Exception) -> ServiceError:
        if isinstance(exc, ServiceError):
            return exc
        return ServiceError(
            f"The spool cannot use its file: {exc}",
            where=str(self._path),
            mend="Check that the disk is healthy and not full, and that the worker's user may write there.",
        )

    def _commit_next(self, connection: sqlite3.Connection, loop: asyncio.AbstractEventLoop) -> None:
        """Write the next group; nothing where an earlier call took all. Runs on the thread."""
        group, size_bytes = list[_Job](), 0
        while self._pending and len(group) < _MAX_GROUP and size_bytes < _MAX_GROUP_BYTES:
            group.append(self._pending.popleft())
            size_bytes += group[-1].size_bytes
        is_durable = bool(group)
        if self._forgetting:  # one at a time, also beside those who write: they may never pause
            group.append(self._forgetting.popleft())
        if group:
            try:
                connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
                outcomes = self._commit(connection, group)
            except Exception as exc:  # noqa: BLE001 - the thread's boundary: whatever happens, everybody gets an answer
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                outcomes = [self._error(exc)] * len(group)
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(_settle, group, outcomes)
                self._note_logged(size_bytes + _COMMIT_BYTES)
            self.room.restore_ballast()

    def _note_logged(self, size_bytes: int) -> None:
        """Have the log tidied up now and then; where that does not keep up, wait for it."""
        self._logged_bytes += size_bytes
        if self._logged_bytes >= self.room.log_bytes // 4 and self._tidier is not None:
            self._logged_bytes = 0
            tidying = self._tidying.submit(self.room.tidy_up, self._tidier)
            if self.room.log_is_long():
                wait([tidying], timeout=_BUSY_S)

    def _commit(self, connection: sqlite3.Connection, group: Sequence[_Job]) -> list[Any]:
        """Return the value of each job, or a `ServiceError` in its place."""
        try:
            return self._transact(connection, group)
        except Exception as exc:  # noqa: BLE001 - the thread's boundary: whatever happens, it must go on
            code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_BUSY:  # another process holds it: none of them would fare better alone
                return [self._error(exc)] * len(group)
            if len(group) > 1:
                return [outcome for job in group for outcome in self._commit(connection, [job])]
            if code != sqlite3.SQLITE_FULL:
                return [self._error(exc)]
        try:
            self.room.relieve(connection, group[0].size_bytes)
            return self._transact(connection, group)
        except Exception as exc:  # noqa: BLE001 - as above
            return [self._error(exc)]

    def _transact(self, connection: sqlite3.Connection, group: Sequence[_Job]) -> list[Any]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            self.room.make_room(connection, sum(job.size_bytes for job in group))
            values = [job.work(connection) for job in group]
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")  # SQLite may have done so by itself
            raise
        return values


def _settle(group: Sequence[_Job], outcomes: Sequence[Any]) -> None:
    for job, outcome in zip(group, outcomes, strict=True):
        failed = isinstance(outcome, ServiceError)
        if not failed:
            job.on_commit()
        if not job.settled.done():  # else its caller was cancelled
            job.settled.set_exception(outcome) if failed else job.settled.set_result(outcome)
