"""A group as a child process: the same `Group`, with a pipe to main for all that goes in and out."""

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Final, assert_never

from detector_worker.core.config import Configuration
from detector_worker.core.outbox import SavedVisit, SpoolEntry
from detector_worker.engine.channel import Channel
from detector_worker.engine.group import Group
from detector_worker.engine.messages import (
    AcceptEntries,
    ForgetVisit,
    GroupCommand,
    LogLine,
    NewestJpeg,
    SaveVisit,
    SetLiveDetections,
    SetSession,
    StartLane,
    StopGroup,
    StopLane,
)

__all__ = ["run_group"]

_GRACE_S: Final = 3.0
_GIVE_UP_S: Final = 8.0

_log: Final = logging.getLogger(__name__)


def run_group(connection: "Connection[Any, Any]", name: str, configuration: Configuration, threads: int) -> None:
    """Be a group until main says stop, or is gone. The entry of the child process."""
    # Ctrl-C reaches the whole terminal group: main decides when a group ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    left = asyncio.run(_serve(connection, name, configuration, threads))
    # Threads stuck in C must not keep the process: everything worth keeping is in main's spool.
    os._exit(1 if left else 0)


async def _serve(
    connection: "Connection[Any, Any]", name: str, configuration: Configuration, threads: int
) -> list[str]:
    end = _ChildEnd(connection, name, configuration, threads)
    logging.basicConfig(level=configuration.logging.level, handlers=[_PipeLogHandler(end.channel)], force=True)
    await end.group.start()
    end.channel.open()
    await end.stopping.wait()
    try:
        async with asyncio.timeout(_GIVE_UP_S):
            left = await end.group.stop(grace_s=_GRACE_S)
    except TimeoutError:
        left = [name]
    if left:
        _log.warning("Did not stop in time: %s", ", ".join(left))
    await end.channel.close_when_written()
    return left


class _ChildEnd:
    """The child's end of the pipe: main's commands for the group, and the group's `Outbox`."""

    def __init__(
        self, connection: "Connection[Any, Any]", name: str, configuration: Configuration, threads: int
    ) -> None:
        self.stopping = asyncio.Event()
        self.channel = Channel(
            connection,
            name=f"main of {name}",
            answer=self._answer,
            on_event=lambda _: None,  # main sends no events
            on_closed=self.stopping.set,
        )
        self.group = Group(configuration, outbox=self, tell=self.channel.notify, threads=threads)

    async def accept(self, entries: Sequence[SpoolEntry], *, visit: SavedVisit | None = None) -> None:
        await self.channel.request(AcceptEntries(tuple(entries), visit))

    async def save_visit(self, visit: SavedVisit) -> None:
        await self.channel.request(SaveVisit(visit))

    async def forget_visit(self, record_id: str) -> None:
        await self.channel.request(ForgetVisit(record_id))

    async def _answer(self, command: GroupCommand) -> bytes | None:
        match command:
            case StartLane():
                await self.group.start_lane(command)
            case StopLane(subscription_id):
                await self.group.stop_lane(subscription_id)
            case SetSession(display_id, session_id):
                await self.group.set_session(display_id, session_id)
            case SetLiveDetections(subscription_id, wanted):
                self.group.set_live_detections(subscription_id, wanted=wanted)
            case NewestJpeg(camera_id):
                return await self.group.newest_jpeg(camera_id)
            case StopGroup():
                self.stopping.set()
            case _:
                assert_never(command)
        return None


class _PipeLogHandler(logging.Handler):
    """Hands log records to main, which alone writes them."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self._channel.notify(LogLine(record.name, record.levelno, text, record.pathname, record.lineno, record.created))
