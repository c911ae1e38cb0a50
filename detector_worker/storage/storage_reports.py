"""What the storage reports of itself into the state managers."""

import asyncio
import logging
import time
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
_TELL_EVERY_S: Final = 60.0
_MEND: Final = "see `detector-worker spool status`, or raise spool.quota_mb"
_LOSSES: Final = {
    "dropped_pictures": f"The spool or its disk is full ({_MEND}), and the oldest pictures are dropped",
    "dropped_records": f"The spool or its disk is full ({_MEND}), and entries of the oldest records are dropped",
    "expired": "Messages are older than their maximum age and not published",
    "refused": f"The spool is full or its disk fails ({_MEND}), and entries are refused",
}


class StorageReports:
    """Takes the news of servers and drainers, and counts what waits."""

    def __init__(self, services: ServiceStateManager, queues: CacheStateManager) -> None:
        self._services, self._queues = services, queues
        self._down: frozenset[Sink] = frozenset()
        self._told: dict[str, tuple[int, float]] = {}  # by what was lost: how much was told of it, and when

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
        if state.is_up and state.sink in self._down:
            _log.warning("Delivery to %s goes on", state.sink)
        self._down = self._down - {state.sink} if state.is_up else self._down | {state.sink}
        before = self._queues.get(state.sink) or _IDLE
        # A dead letter that nothing has been delivered after may mean that nothing ever can be.
        ok = state.is_up and state.reason is None
        after = replace(before, ok=ok, reason=state.reason, delivered=state.delivered, warnings=state.warnings)
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
            after = replace(after, dead_letters=waiting.dead_letters)
            if sink is Sink.POSTGRESQL:
                after = replace(after, records=waiting.entries)
            else:
                after = replace(after, images=backlog.pictures, messages=waiting.entries - backlog.pictures)
            self._queues.set(sink, after)
        state = SpoolState(
            backlog.size_bytes, backlog.quota_bytes, backlog.accepted, backlog.refused, dict(backlog.lost)
        )
        if self._queues.spool is None:  # what was lost before this start is no news
            self._told = {name: (number, -_TELL_EVERY_S) for name, number in state.lost.items()}
        self._queues.spool = state
        for name, number in {**state.lost, "refused": state.refused}.items():
            self._tell_loss(name, number)
        self._queues.set("spool", replace(_IDLE, size_bytes=backlog.size_bytes))

    def _tell_loss(self, name: str, number: int) -> None:
        """Say at once what was lost for the first time, then once a minute how much it was since."""
        told, told_s = self._told.get(name, (0, -_TELL_EVERY_S))
        if name in _LOSSES and number > told and time.monotonic() - told_s >= _TELL_EVERY_S:
            self._told[name] = (number, time.monotonic())
            _log.warning("%s: %d since this was told last", _LOSSES[name], number - told)
