"""A group as a child process: the same `Group`, with a pipe to main for all that goes in and out."""

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

from detector_worker.core.config import Configuration
from detector_worker.core.entities import StreamStatus
from detector_worker.core.outbox import SavedVisit, SessionEntry, SpoolEntry
from detector_worker.engine.channel import Channel
from detector_worker.engine.engine import LaneResult
from detector_worker.engine.group import Group
from detector_worker.engine.group_owner import GroupOwner, GroupReport

__all__ = ["GroupEnd", "run_group"]

_log: Final = logging.getLogger(__name__)
_GRACE_S: Final = 3.0
_GIVE_UP_S: Final = 8.0


class GroupEnd(Group):
    """What main may call in the child: the group's own methods, and the end."""

    def __init__(
        self, connection: "Connection[Any, Any]", name: str, configuration: Configuration, threads: int
    ) -> None:
        self.stopping = asyncio.Event()
        self.channel = Channel(connection, name=f"main of {name}", target=self, on_closed=self.stopping.set)
        super().__init__(configuration, owner=_Main(self.channel), threads=threads)

    async def leave(self) -> None:
        """End the process once its runs are over."""
        self.stopping.set()


def run_group(connection: "Connection[Any, Any]", name: str, configuration: Configuration, threads: int) -> None:
    """Be a group until main says so, or is gone. The entry of the child process."""
    # Ctrl-C and a service manager's SIGTERM reach all processes of a worker: main decides when a group ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.umask(0o077)
    left = asyncio.run(_serve(connection, name, configuration, threads))
    # Threads stuck in C must not keep the process: everything worth keeping is in main's spool.
    os._exit(1 if left else 0)


async def _serve(
    connection: "Connection[Any, Any]", name: str, configuration: Configuration, threads: int
) -> list[str]:
    end = GroupEnd(connection, name, configuration, threads)
    logging.basicConfig(level=configuration.logging.level, handlers=[_PipeLogHandler(end.channel)], force=True)
    end.channel.open()
    await end.start()
    await end.stopping.wait()
    try:
        async with asyncio.timeout(_GIVE_UP_S):
            left = await end.stop(grace_s=_GRACE_S)
    except TimeoutError:
        left = [name]
    if left:
        _log.warning("Did not stop in time: %s", ", ".join(left))
    await end.channel.close_when_written()
    return left


class _Main:
    """Main, as the group sees it: its `GroupOwner` at the other end of the pipe."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def accept(
        self, entries: Sequence[SpoolEntry], *, visit: SavedVisit | None = None, session: SessionEntry | None = None
    ) -> None:
        await self._channel.call(GroupOwner.accept, tuple(entries), visit=visit, session=session)

    async def save_visit(self, visit: SavedVisit) -> None:
        await self._channel.call(GroupOwner.save_visit, visit)

    async def forget_visit(self, record_id: str) -> None:
        await self._channel.call(GroupOwner.forget_visit, record_id)

    def on_result(self, result: LaneResult) -> None:
        self._channel.tell(GroupOwner.on_result, result)

    def on_stream_status(self, status: StreamStatus) -> None:
        self._channel.tell(GroupOwner.on_stream_status, status)

    def on_report(self, report: GroupReport) -> None:
        self._channel.tell(GroupOwner.on_report, report)

    def on_log(self, record: dict[str, object]) -> None:
        self._channel.tell(GroupOwner.on_log, record)


class _PipeLogHandler(logging.Handler):
    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))  # main adds the rest
        self._main = _Main(channel)

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)  # with the traceback, which cannot be pickled
        names = ("name", "levelno", "levelname", "pathname", "filename", "lineno", "created", "threadName")
        self._main.on_log({name: getattr(record, name) for name in names} | {"msg": text})
