"""The spool's one file, and the one thread that touches it.

What arrives while a group is on its way to the disk makes the next group: a lone write waits for one fsync, and a
thousand writers share one. A group that fails is tried again one by one, so that a bad job harms no other.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from detector_worker.core.exceptions import ServiceError

__all__ = ["SpoolFile"]

T = TypeVar("T")

_logger = logging.getLogger(__name__)
_MAX_GROUP: Final = 200
_MAX_PENDING: Final = 1_000
_BUSY_S: Final = 5.0
_CLOSE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    settled: asyncio.Future[Any]
    on_commit: Callable[[], None]


class SpoolFile:
    """Owns the connection and the thread ``spool``. Every coroutine runs on one event loop and raises `ServiceError`.

    At most 1,000 writes wait in it; whoever comes then waits for a place.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self._connection: sqlite3.Connection | None = None
        self._pending: deque[_Job] = deque()  # bounded by the places
        self._places = asyncio.Semaphore(_MAX_PENDING)

    async def open(self, *, schema: str, version: int) -> None:
        """Open the file, or make it with this schema."""

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                found = connection.execute("PRAGMA user_version").fetchone()[0]
                if found not in {0, version}:
                    raise ServiceError(
                        f"The spool is of version {found}, this worker knows {version}",
                        where=str(self._path),
                        mend="Use the worker that wrote it, or another data folder.",
                    )
                if found == 0:
                    connection.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {version}; COMMIT;")
            except (sqlite3.Error, ServiceError):
                connection.close()
                raise
            return connection

        self._connection = await self._in_thread(connect)

    async def close(self) -> None:
        """Write what was handed in and close the file, within a few seconds."""
        connection, self._connection = self._connection, None
        if connection is not None:
            closing = asyncio.get_running_loop().run_in_executor(self._thread, connection.close)
            if not (await asyncio.wait({closing}, timeout=_CLOSE_S))[0]:
                _logger.error("The spool's file was not closed within %.0f s: %s", _CLOSE_S, self._path)
        self._thread.shutdown(wait=False)

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Return what a query finds; it sees every write that was acknowledged."""
        connection = self._opened()
        return await self._in_thread(lambda: query(connection))

    async def write(self, work: Callable[[sqlite3.Connection], T], on_commit: Callable[[], None] = lambda: None) -> T:
        """Carry out ``work`` in a transaction, with others', and return its value once it is on disk.

        A caller who is cancelled meanwhile does not take the work back; ``on_commit`` runs on the event loop all the
        same.
        """
        async with self._places:
            connection, loop = self._opened(), asyncio.get_running_loop()
            settled: asyncio.Future[T] = loop.create_future()
            self._pending.append(_Job(work, settled, on_commit))
            self._thread.submit(self._commit_pending, connection, loop)
            return await settled

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ServiceError("The spool is not running", where=str(self._path), mend="Start the worker first.")
        return self._connection

    async def _in_thread(self, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except sqlite3.Error as exc:
            raise self._error(exc) from exc

    def _error(self, exc: Exception) -> ServiceError:
        return ServiceError(
            f"The spool cannot use its file: {exc}",
            where=str(self._path),
            mend="Check that the disk is healthy and not full, and that the worker's user may write there.",
        )

    def _commit_pending(self, connection: sqlite3.Connection, loop: asyncio.AbstractEventLoop) -> None:
        """Write the next group; nothing where an earlier call took all. Runs on the thread."""
        group = [self._pending.popleft() for _ in range(min(len(self._pending), _MAX_GROUP))]
        if group:
            outcomes = self._commit(connection, group)
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(_settle, group, outcomes)

    def _commit(self, connection: sqlite3.Connection, group: Sequence[_Job]) -> list[Any]:
        """Return the value of each job, or a `ServiceError` in its place."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            values = [job.work(connection) for job in group]
            connection.execute("COMMIT")
        except Exception as exc:  # noqa: BLE001 - the thread's boundary: whatever happens, it must go on
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")  # SQLite may have done so by itself
            if len(group) == 1:
                return [self._error(exc)]
            return [outcome for job in group for outcome in self._commit(connection, [job])]
        return values


def _settle(group: Sequence[_Job], outcomes: Sequence[Any]) -> None:
    for job, outcome in zip(group, outcomes, strict=True):
        failed = isinstance(outcome, ServiceError)
        if not failed:
            job.on_commit()
        if not job.settled.done():  # else its caller was cancelled
            job.settled.set_exception(outcome) if failed else job.settled.set_result(outcome)
