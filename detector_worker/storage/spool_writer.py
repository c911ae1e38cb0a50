"""The one thread that writes to the spool's file.

What arrives while a group is on its way to the disk makes the next group: a lone write waits for one fsync,
and a thousand writers share one. A group that fails is tried again one by one, so that what is wrong with one
job harms no other.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from detector_worker.core.exceptions import ServiceError

__all__ = ["SpoolWriter", "disk_error"]

T = TypeVar("T")

_MAX_GROUP: Final = 200
_MAX_PENDING: Final = 1_000
_BUSY_S: Final = 5.0


def disk_error(exc: Exception, path: Path) -> ServiceError:
    """Translate what SQLite, or the disk below it, says."""
    return ServiceError(
        f"The spool cannot use its file: {exc}",
        where=str(path),
        mend="Check that the disk is healthy and not full, and that the worker's user may write there.",
    )


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    settled: asyncio.Future[Any]
    on_commit: Callable[[], None]


_Outcome = tuple[_Job, Any, Exception | None]


class SpoolWriter:
    """Owns the writing connection and its thread. Every coroutine runs on the event loop of `start`.

    At most 1,000 jobs wait in it; whoever comes then waits for a place.
    """

    def __init__(self, path: Path, *, prepare: Callable[[sqlite3.Connection], None]) -> None:
        """``prepare`` makes the tables; it runs once, on the thread."""
        self._path, self._prepare = path, prepare
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()  # bounded by the places
        self._places = asyncio.Semaphore(_MAX_PENDING)
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Open the file and start the thread.

        Raises:
            ServiceError: The file cannot be opened, is no spool, or is one of a later version.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = loop.create_future()
        thread = threading.Thread(target=self._run, args=(loop, opened), name="spool-writer", daemon=True)
        thread.start()
        await opened
        self._thread = thread

    async def stop(self, timeout_s: float) -> bool:
        """Write what was handed in, close the file and end the thread; False: it is still busy."""
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        self._jobs.put(None)
        await asyncio.to_thread(thread.join, timeout_s)
        return not thread.is_alive()

    async def write(self, work: Callable[[sqlite3.Connection], T], on_commit: Callable[[], None] = lambda: None) -> T:
        """Carry out ``work`` in a transaction, with others', and return its value once it is on disk.

        A caller who is cancelled meanwhile does not take the work back. ``on_commit`` runs on the event loop
        all the same.

        Raises:
            ServiceError: The spool is stopped, or its disk refused.
        """
        await self._places.acquire()
        if self._thread is None:  # asked after the wait, which may have lasted until the stop
            self._places.release()
            raise ServiceError("The spool is not running", where=str(self._path), mend="Start the worker first.")
        settled = asyncio.get_running_loop().create_future()
        self._jobs.put(_Job(work, settled, on_commit))
        value: T = await settled
        return value

    def _settle(self, outcomes: Sequence[_Outcome]) -> None:
        for job, value, error in outcomes:
            self._places.release()
            if error is None:
                job.on_commit()
            if job.settled.done():  # its caller was cancelled
                continue
            if error is None:
                job.settled.set_result(value)
            else:
                job.settled.set_exception(error)

    def _run(self, loop: asyncio.AbstractEventLoop, opened: asyncio.Future[None]) -> None:
        def tell(callback: Callable[[Any], None], argument: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(callback, argument)

        try:
            connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None)
        except sqlite3.Error as exc:
            tell(opened.set_exception, disk_error(exc, self._path))
            return
        with contextlib.closing(connection):
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                self._prepare(connection)
            except (sqlite3.Error, ServiceError) as exc:
                tell(opened.set_exception, exc if isinstance(exc, ServiceError) else disk_error(exc, self._path))
                return
            tell(opened.set_result, None)
            last = False
            while not last:
                jobs, last = self._gather()
                if jobs:
                    tell(self._settle, self._commit(connection, jobs))

    def _gather(self) -> tuple[list[_Job], bool]:
        jobs: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == _MAX_GROUP:
                return jobs, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _commit(self, connection: sqlite3.Connection, jobs: Sequence[_Job]) -> list[_Outcome]:
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes: list[_Outcome] = [(job, job.work(connection), None) for job in jobs]
            connection.execute("COMMIT")
        except Exception as exc:  # noqa: BLE001 - the thread's boundary: whatever happens, it must go on
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")  # SQLite may have done so by itself
            if len(jobs) > 1:
                return [outcome for job in jobs for outcome in self._commit(connection, [job])]
            return [(jobs[0], None, disk_error(exc, self._path))]
        return outcomes
