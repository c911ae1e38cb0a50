"""Main's end of one group: starts the child process, notices its death, starts it again."""

import asyncio
import contextlib
import logging
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

from detector_worker.core.clock import Backoff
from detector_worker.core.config import Configuration
from detector_worker.core.exceptions import DetectorWorkerError, ServiceError
from detector_worker.engine.channel import Channel
from detector_worker.engine.group_owner import GroupOwner, GroupReport
from detector_worker.engine.group_process import GroupEnd, run_group
from detector_worker.engine.pulse import Pulse

__all__ = ["GroupHandle", "GroupKeeper"]

P = ParamSpec("P")
Result = TypeVar("Result")
_log: Final = logging.getLogger(__name__)
_SPAWN: Final = multiprocessing.get_context("spawn")
_ASK_S: Final = 1.0
_STOP_S: Final = 9.0
_FEEL_PULSE_EVERY_S: Final = 1.0


class GroupKeeper(Protocol):
    """Who is told how a group's process fares. Called on the event loop."""

    def owner_of(self, name: str) -> GroupOwner:
        """Return who takes what this group leaves and tells."""
        ...

    async def on_group_up(self, name: str, pid: int) -> None:
        """A new process stands ready and knows nothing: give it its lanes."""
        ...

    def on_group_down(self, name: str, reason: str) -> None:
        """The process has ended; a new one is started by itself."""
        ...


class GroupHandle:
    """One group, whichever process it lives in at the moment. Owns the process and one task."""

    def __init__(self, name: str, configuration: Configuration, *, threads: int, keeper: GroupKeeper) -> None:
        self.name = name
        self._configuration, self._threads, self._keeper = configuration, threads, keeper
        self._backoff = Backoff(base_s=0.2, cap_s=10.0)
        self._channel: Channel | None = None
        self.lives = 0
        """How many processes it has had."""
        self._stopping = False
        self._pulse = Pulse(time.monotonic())

    def start(self) -> None:
        """Start the process and keep one running from now on."""
        self._task = asyncio.create_task(self._keep_running(), name=f"{self.name}: keeper")

    def note_report(self, report: GroupReport) -> None:
        """Take a sign of life: without any the process is killed and started again."""
        self._pulse.note(report, time.monotonic())

    async def stop(self) -> None:
        """Stop the process: gracefully, else by force."""
        self._stopping = True
        patience_s = _STOP_S
        with contextlib.suppress(DetectorWorkerError):
            try:
                async with asyncio.timeout(_ASK_S):
                    await self.call(GroupEnd.leave)
            except TimeoutError:  # it hangs
                patience_s = 0.0
        _, late = await asyncio.wait({self._task}, timeout=patience_s)
        if late:
            _log.warning("%s did not stop in time and is killed", self.name)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def call(
        self, method: Callable[Concatenate[Any, P], Awaitable[Result]], *args: P.args, **kwargs: P.kwargs
    ) -> Result:
        """Call a method of `GroupEnd` in the process.

        Raises:
            DetectorWorkerError: What it raised, or `ServiceError` while there is no process.
        """
        if self._channel is None:
            raise ServiceError("The group is being started", where=self.name, mend="Try again in a few seconds.")
        return await self._channel.call(method, *args, **kwargs)

    async def _keep_running(self) -> None:
        while not self._stopping:
            try:
                reason = await self._run_once()
            except OSError as exc:  # no memory, no descriptors: there may be some later
                reason = f"could not be started: {exc}"
            if self._stopping:
                return
            delay_s = self._backoff.next_delay_s()
            _log.error("%s: %s; it is started again in %.1f s", self.name, reason, delay_s)
            self._keeper.on_group_down(self.name, reason)
            await asyncio.sleep(delay_s)

    async def _run_once(self) -> str:
        """Run one process to its end, and say how it ended."""
        ours, theirs = _SPAWN.Pipe()
        arguments = (theirs, self.name, self._configuration, self._threads)
        process = _SPAWN.Process(target=run_group, args=arguments, name=self.name, daemon=True)
        await asyncio.to_thread(process.start)
        theirs.close()
        closed = asyncio.Event()
        channel = Channel(ours, name=self.name, target=self._keeper.owner_of(self.name), on_closed=closed.set)
        channel.open()
        self.lives += 1
        self._channel, self._pulse = channel, Pulse(time.monotonic())
        self._backoff.note_success(time.monotonic())
        greeting = asyncio.create_task(self._keeper.on_group_up(self.name, process.pid or 0))
        try:
            fault = await self._until_gone(closed)
            if fault is not None:
                process.kill()
        finally:
            self._channel = None
            channel.close()
            greeting.cancel()
            await asyncio.shield(asyncio.to_thread(_reap, process))
        self._backoff.note_success(time.monotonic())
        return f"ended with exit code {process.exitcode}" if fault is None else f"{fault} and was killed"

    async def _until_gone(self, closed: asyncio.Event) -> str | None:
        """Wait until the process has closed its pipe, or must be killed: then return why."""
        while not closed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FEEL_PULSE_EVERY_S):
                    await closed.wait()
            if not self._stopping and (fault := self._pulse.fault(time.monotonic())) is not None:
                return fault
        return None


def _reap(process: Any) -> None:
    """Leave no process behind: one that has closed its pipe ends by itself within moments."""
    process.join(2.0)
    if process.is_alive():
        process.kill()
        process.join()
