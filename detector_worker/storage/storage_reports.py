"""What the storage reports of itself into the state managers."""

import asyncio
from dataclasses import replace
from typing import Final, Literal

from detector_worker.core.outbox import Sink
from detector_worker.core.singleton_managers import CacheStateManager, QueueState, ServiceState, ServiceStateManager
from detector_worker.storage.drainers import SinkState
from detector_worker.storage.server_supervision import ServiceState as ServerState
from detector_worker.storage.spool import Spool

__all__ = ["StorageReports"]

_COUNT_EVERY_S: Final = 1.0


class StorageReports:
    """Takes the news of servers and drainers, and counts what waits."""

    def __init__(self, services: ServiceStateManager, queues: CacheStateManager) -> None:
        self._services, self._queues = services, queues

    def note_server(self, state: ServerState) -> None:
        """A server of our own has changed; called from its supervisor's thread."""
        name = f"embedded {state.name}"
        if state.state == "stopped":
            self._services.remove(name)
            return
        word: Literal["ok", "starting", "down"] = "ok" if state.state == "running" else state.state
        self._services.set(name, ServiceState(word, detail=state.reason, pid=state.pid))

    def note_sink(self, state: SinkState) -> None:
        """Deliveries to a sink go on, or stand still."""
        before = self._queues.get(state.sink) or QueueState(ok=True)
        self._queues.set(state.sink, replace(before, ok=state.is_up, reason=state.reason))

    async def count(self, spool: Spool) -> None:
        """Count what waits, until cancelled."""
        while True:
            backlog = await spool.backlog()
            for sink, waiting in backlog.sinks.items():
                before = self._queues.get(sink) or QueueState(ok=True)
                records = waiting.entries if sink is Sink.POSTGRESQL else 0
                self._queues.set(sink, replace(before, records=records, images=waiting.entries - records))
            self._queues.set("spool", QueueState(ok=True, dead_letters=backlog.dead_letters))
            await asyncio.sleep(_COUNT_EVERY_S)
