"""What the storage reports of itself into the state managers."""

import asyncio
import logging
from dataclasses import replace
from typing import Final

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import Sink
from detector_worker.core.singleton_managers import CacheStateManager, QueueState, ServiceState, ServiceStateManager
from detector_worker.storage.drainers import SinkState
from detector_worker.storage.spool import Spool

__all__ = ["StorageReports"]

_log: Final = logging.getLogger(__name__)
_COUNT_EVERY_S: Final = 1.0
_IDLE: Final = QueueState(ok=True)


class StorageReports:
    """Takes the news of servers and drainers, and counts what waits."""

    def __init__(self, services: ServiceStateManager, queues: CacheStateManager) -> None:
        self._services, self._queues = services, queues

    def note_server(self, name: str, state: ServiceState | None) -> None:
        """A server of our own has changed, None: has stopped; called from its supervisor's thread."""
        if state is None:
            self._services.remove(f"embedded {name}")
            return
        before = self._services.get(f"embedded {name}")
        if before is not None and before.state != state.state:
            level = logging.WARNING if state.state == "down" else logging.INFO
            _log.log(level, "Embedded %s: %s %s", name, state.state, state.detail or "")
        self._services.set(f"embedded {name}", state)

    def note_sink(self, state: SinkState) -> None:
        """Deliveries to a sink go on, or stand still."""
        before = self._queues.get(state.sink) or _IDLE
        if state.is_up and not before.ok:
            _log.warning("Delivery to %s goes on", state.sink)
        self._queues.set(state.sink, replace(before, ok=state.is_up, reason=state.reason))

    async def count(self, spool: Spool) -> None:
        """Count what waits, until cancelled; a spool that cannot be read is reported as not ok."""
        while True:
            try:
                await self._count_once(spool)
            except ServiceError as exc:
                self._queues.set("spool", replace(self._queues.get("spool") or _IDLE, ok=False, reason=str(exc)))
            await asyncio.sleep(_COUNT_EVERY_S)

    async def _count_once(self, spool: Spool) -> None:
        backlog = await spool.backlog()
        for sink, waiting in backlog.sinks.items():
            before = self._queues.get(sink) or _IDLE
            records = waiting.entries if sink is Sink.POSTGRESQL else 0
            self._queues.set(sink, replace(before, records=records, images=waiting.entries - records))
        self._queues.set("spool", replace(_IDLE, dead_letters=backlog.dead_letters))
