"""Who is analysed next: a few threads for all lanes of a group, and for the branches' work.

A lane is taken when it has a frame and none in flight; among those, the one whose frame has waited
longest. So no busy camera starves another, and delay cannot build up: a lane holds one frame, the newest.
Branch work may hold at most half of the threads, so that detection always goes on.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

__all__ = ["Analysable", "Scheduler"]

_log: Final = logging.getLogger(__name__)
Result = TypeVar("Result")
_MAX_WAITING_JOBS: Final = 1024


class Analysable(Protocol):
    """A lane as the scheduler sees it. Called under the scheduler's lock, but for `analyse_newest`."""

    def waiting_since_s(self) -> float | None:
        """Return when the frame that waits was captured; None if there is none, or one is in flight."""
        ...

    def begin(self) -> Callable[[], None]:
        """Take the waiting frame; the returned call analyses it, in the thread that makes it."""
        ...

    def end(self) -> None:
        """The frame in flight is done."""
        ...


@dataclass(frozen=True, slots=True)
class _Job:
    execute: Callable[[], None]
    cancel: Callable[[], bool]


class Scheduler:
    """Owns the analysis threads of a group."""

    def __init__(self, *, threads: int) -> None:
        self._wake = threading.Condition()
        self._lanes: list[Analysable] = []
        self._jobs: deque[_Job] = deque()
        self._jobs_running = 0
        self._since_s: dict[int, float] = {}
        """When each busy thread began its task, by thread."""
        self._job_was_last = False
        self._max_jobs_running = max(1, threads // 2)
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, name=f"analysis-{n}", daemon=True) for n in range(threads)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, *, timeout_s: float = 2.0) -> list[str]:
        """Stop, and return the names of threads that are still busy; waiting jobs are cancelled. Blocks."""
        with self._wake:
            self._stopping = True
            waiting = tuple(self._jobs)
            self._jobs.clear()
            self._wake.notify_all()
        for job in waiting:
            job.cancel()
        for thread in self._threads:
            thread.join(timeout_s / len(self._threads))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def add(self, lane: Analysable) -> None:
        """Analyse this lane from now on."""
        with self._wake:
            self._lanes.append(lane)

    def remove(self, lane: Analysable) -> None:
        """Take no further frame of this lane; one in flight is finished."""
        with self._wake:
            if lane in self._lanes:
                self._lanes.remove(lane)

    def busy_s(self, now_s: float) -> float:
        """Return for how long the longest task under way has lasted at ``now_s``, monotonic seconds."""
        with self._wake:
            return now_s - min(self._since_s.values(), default=now_s)

    def wake(self) -> None:
        """A lane has got a frame."""
        with self._wake:
            self._wake.notify()

    async def run(self, job: Callable[[], Result]) -> Result:
        """Run blocking work of a branch in an analysis thread.

        Raises:
            RuntimeError: More jobs wait than could ever be done in time.
        """
        future: Future[Result] = Future()

        def execute() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except Exception as exc:  # noqa: BLE001 - it is raised where the result is awaited
                    future.set_exception(exc)

        with self._wake:
            if len(self._jobs) >= _MAX_WAITING_JOBS or self._stopping:
                raise RuntimeError("the analysis threads take no more work")
            self._jobs.append(_Job(execute, future.cancel))
            self._wake.notify()
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._since_s.pop(threading.get_ident(), None)
                while (task := self._next_task()) is None:
                    if self._stopping:
                        return
                    self._wake.wait()
                self._since_s[threading.get_ident()] = time.monotonic()
            task()

    def _next_task(self) -> Callable[[], None] | None:
        """Choose under the lock: lanes and jobs by turns where both wait, so that neither starves."""
        if self._stopping:
            return None
        job_allowed = bool(self._jobs) and self._jobs_running < self._max_jobs_running
        lane = self._longest_waiting()
        self._job_was_last = job_allowed and (lane is None or not self._job_was_last)
        if self._job_was_last:
            self._jobs_running += 1
            job = self._jobs.popleft()
            return lambda: self._run_job(job)
        if lane is None:
            return None
        analyse = lane.begin()
        return lambda: self._run_lane(lane, analyse)

    def _longest_waiting(self) -> Analysable | None:
        longest: tuple[float, Analysable] | None = None
        for lane in self._lanes:
            since_s = lane.waiting_since_s()
            if since_s is not None and (longest is None or since_s < longest[0]):
                longest = since_s, lane
        return None if longest is None else longest[1]

    def _run_lane(self, lane: Analysable, analyse: Callable[[], None]) -> None:
        try:
            analyse()
        except Exception:  # noqa: BLE001 - a lane's boundary: its bug must not cost the thread
            _log.exception("A lane's analysis failed")
        finally:
            with self._wake:
                lane.end()
                self._wake.notify()

    def _run_job(self, job: _Job) -> None:
        job.execute()
        with self._wake:
            self._jobs_running -= 1
            self._wake.notify()
