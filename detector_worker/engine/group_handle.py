"""Main's end of one group: starts the child process, notices its death, starts it again."""

import asyncio
import contextlib
import logging
import multiprocessing
import time
from collections.abc import Awaitable
from typing import Any, Final, Protocol

from detector_worker.core.clock import Backoff
from detector_worker.core.config import Configuration
from detector_worker.core.exceptions import DetectorWorkerError, ServiceError
from detector_worker.engine.channel import Channel
from detector_worker.engine.group_process import run_group
from detector_worker.engine.messages import GroupCommand, GroupEvent, GroupRequest, StopGroup

__all__ = ["GroupHandle", "GroupOwner"]

_log: Final = logging.getLogger(__name__)
_SPAWN: Final = multiprocessing.get_context("spawn")
_STOP_S: Final = 9.0


class GroupOwner(Protocol):
    """Who is told of a group. Called on the event loop."""

    async def answer_group(self, request: GroupRequest) -> None:
        """Carry out what a group asks for."""
        ...

    def on_group_event(self, name: str, event: GroupEvent) -> None:
        """Take what a group tells; must not block."""
        ...

    async def on_group_up(self, name: str, pid: int) -> None:
        """A new process stands ready and knows nothing: give it its lanes."""
        ...

    def on_group_down(self, name: str, reason: str) -> None:
        """The process has ended; a new one is started by itself."""
        ...


class GroupHandle:
    """One group, whichever process it lives in at the moment. Owns the process and one task."""

    def __init__(self, name: str, configuration: Configuration, *, threads: int, owner: GroupOwner) -> None:
        self.name = name
        self._configuration, self._threads, self._owner = configuration, threads, owner
        self._backoff = Backoff(base_s=0.2, cap_s=10.0)
        self._channel: Channel | None = None
        self._stopping = False

    def start(self) -> None:
        """Start the process and keep one running from now on."""
        self._keeper = asyncio.create_task(self._keep_running(), name=f"{self.name}-keeper")

    async def stop(self) -> None:
        """Stop the process: gracefully, else by force."""
        self._stopping = True
        if self._channel is not None:
            with contextlib.suppress(DetectorWorkerError):
                await self._channel.request(StopGroup())
        _, late = await asyncio.wait({self._keeper}, timeout=_STOP_S)
        if late:
            _log.warning("%s did not stop within %.0f s and is killed", self.name, _STOP_S)
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def request(self, command: GroupCommand) -> Any:
        """Have a command carried out.

        Raises:
            DetectorWorkerError: What the group raised, or `ServiceError` while there is no process.
        """
        if self._channel is None:
            raise ServiceError("The group is being started again", where=self.name, mend="Try again in a few seconds.")
        return await self._channel.request(command)

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
            self._owner.on_group_down(self.name, reason)
            await asyncio.sleep(delay_s)

    async def _run_once(self) -> str:
        """Run one process to its end, and say how it ended."""
        closed = asyncio.Event()
        ours, theirs = _SPAWN.Pipe()
        process = _SPAWN.Process(
            target=run_group, args=(theirs, self.name, self._configuration, self._threads), name=self.name, daemon=True
        )
        channel = Channel(
            ours,
            name=self.name,
            answer=self._owner.answer_group,
            on_event=lambda event: self._owner.on_group_event(self.name, event),
            on_closed=closed.set,
        )
        await asyncio.to_thread(process.start)
        theirs.close()
        channel.open()
        self._channel = channel
        began_s = time.monotonic()
        try:
            await self._while_open(closed, self._owner.on_group_up(self.name, process.pid or 0))
        finally:
            self._channel = None
            channel.close()
            await asyncio.shield(asyncio.to_thread(_reap, process))
        self._backoff.note_success(began_s)
        self._backoff.note_success(time.monotonic())
        return f"ended with exit code {process.exitcode}"

    async def _while_open(self, closed: asyncio.Event, greeting: Awaitable[None]) -> None:
        greeted = asyncio.ensure_future(greeting)
        greeted.add_done_callback(self._note_greeting)
        try:
            await closed.wait()
        finally:
            greeted.cancel()

    def _note_greeting(self, greeted: "asyncio.Future[None]") -> None:
        if not greeted.cancelled() and (error := greeted.exception()) is not None:
            _log.error("%s could not be given its lanes: %s", self.name, error)


def _reap(process: Any) -> None:
    """Leave no process behind: one that has closed its pipe ends by itself within moments."""
    process.join(2.0)
    if process.is_alive():
        process.kill()
        process.join()
