"""What the storage reports of itself into the state managers."""

import asyncio
import logging
from dataclasses import replace
from typing import Final

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import Sink
from detector_worker.core.singleton_managers import (
    CacheStateManager,
    QueueState,
    ServiceState,
    ServiceStateManager,
    SpoolState,
)
from detector_worker.storage.drainers import SinkState
from detector_worker.storage.spool.backlog import Backlog
from detector_worker.storage.spool.spool import Spool

__all__ = ["StorageReports"]

_log: Final = logging.getLogger(__name__)
_COUNT_EVERY_S: Final = 1.0
_IDLE: Final = QueueState(ok=True)
_LOSSES: Final = {
    "dropped_pictures": "The spool is full: the %d oldest pictures were dropped",
    "dropped_records": "The spool is full and holds no more pictures: %d entries of the oldest records were dropped",
    "expired": "%d messages were older than their maximum age and are not published any more",
}


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
        """A batch was delivered, or deliveries to a sink stand still."""
        before = self._queues.get(state.sink) or _IDLE
        if state.is_up and not before.ok:
            _log.warning("Delivery to %s goes on", state.sink)
        after = replace(before, ok=state.is_up, reason=state.reason, delivered=state.delivered, warnings=state.warnings)
        self._queues.set(state.sink, after)

    async def count(self, spool: Spool) -> None:
        """Count what waits, until cancelled; a spool that cannot be read is reported as not ok."""
        while True:
            try:
                self._note_backlog(await spool.backlog())
            except ServiceError as exc:
                self._queues.set("spool", replace(self._queues.get("spool") or _IDLE, ok=False, reason=str(exc)))
            await asyncio.sleep(_COUNT_EVERY_S)

    def _note_backlog(self, backlog: Backlog) -> None:
        for sink, waiting in backlog.sinks.items():
            before = self._queues.get(sink) or _IDLE
            after = replace(before, size_bytes=waiting.size_bytes, oldest_at=waiting.oldest_at)
            if sink is Sink.POSTGRESQL:
                after = replace(after, records=waiting.entries)
            else:
                after = replace(after, images=backlog.pictures, messages=waiting.entries - backlog.pictures)
            self._queues.set(sink, after)
        state = SpoolState(
            backlog.size_bytes, backlog.quota_bytes, backlog.accepted, backlog.refused, dict(backlog.lost)
        )
        self._tell_losses(self._queues.spool or replace(state, refused=0), state)
        self._queues.spool = state
        self._queues.set("spool", replace(_IDLE, dead_letters=backlog.dead_letters, size_bytes=backlog.size_bytes))

    def _tell_losses(self, before: SpoolState, now: SpoolState) -> None:
        """Say once a second at most what was dropped since; not what an operator took out."""
        for name, text in _LOSSES.items():
            if (number := now.lost.get(name, 0) - before.lost.get(name, 0)) > 0:
                _log.warning(text, number)
        if now.refused > before.refused:
            _log.error("The spool has refused %d entries: it is full, or its disk fails", now.refused - before.refused)
