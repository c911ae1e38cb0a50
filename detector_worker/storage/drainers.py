"""Carries what the spool holds to the sinks: one task each, so that no sink waits for another."""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from detector_worker.core.clock import Backoff
from detector_worker.core.exceptions import DetectorWorkerError, ServiceError
from detector_worker.core.outbox import Sink
from detector_worker.storage.faults import TransientDatabaseError, TransientRedisError
from detector_worker.storage.sinks import DeliverySink
from detector_worker.storage.spool.spool import QueuedEntry, Spool

__all__ = ["Drainers", "SinkState"]

_log: Final = logging.getLogger(__name__)
_MAX_ENTRIES: Final = 2_000
_MAX_BYTES: Final = 8 << 20
_GENTLE_ENTRIES: Final = 100
_GENTLE_BYTES: Final = 1 << 20
_QUICK_S: Final = 0.03  # where a batch takes longer, that is the server's time, not ours
_TRIES: Final = 3
_PROBE_EVERY_S: Final = 5.0
_FIRST_DELAY_S: Final = 0.2
_LONGEST_DELAY_S: Final = 5.0
_ABORT_S: Final = 2.0
_TEND_EVERY_S: Final = 1.0
_LOOK_BACK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class SinkState:
    """How deliveries to one sink are going; the numbers are of entries since the start.

    ``reason``: why it is down, or why the last dead letter is one; None where all is well.
    """

    sink: Sink
    is_up: bool
    reason: str | None
    delivered: int
    dead_lettered: int
    warnings: tuple[str, ...] = ()
    """What the server behind it may lose by itself."""


class Drainers:
    """Owns one task, ``drainers``, and below it one for each sink, and one that drops what has become too old."""

    def __init__(self, spool: Spool, sinks: Sequence[DeliverySink], *, notify: Callable[[SinkState], None]) -> None:
        """``notify`` is told of each batch, each dead letter and each change between up and down; must not block."""
        self._spool, self._sinks = spool, sinks
        self._drainers = [_Drainer(spool, sink, notify) for sink in sinks]
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to deliver."""
        self._task = asyncio.create_task(self._run(), name="drainers")

    async def stop(self, grace_s: float) -> None:
        """Deliver what is there for at most ``grace_s`` seconds, then cut what is under way.

        A sink that is down is given up at once. What remains, remains in the spool.
        """
        task, self._task = self._task, None
        if task is None:
            return
        for drainer in self._drainers:
            drainer.finish()
        done, _ = await asyncio.wait({task}, timeout=grace_s)
        if not done:
            for sink in self._sinks:
                sink.abort()  # first: a driver that is cancelled waits for the server's consent
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=_ABORT_S)
        if not done:
            _log.error("The task %s did not end within %.0f s", task.get_name(), _ABORT_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ABORT_S):
                await self._drop_expired()

    async def _run(self) -> None:
        tending = asyncio.create_task(self._tend(), name="spool upkeep")
        try:
            async with asyncio.TaskGroup() as group:
                for sink, drainer in zip(self._sinks, self._drainers, strict=True):
                    group.create_task(drainer.run(), name=f"drainer {sink.sink}")
        finally:
            tending.cancel()

    async def _tend(self) -> None:
        """Drop what is too old also while its sink is away: a gate must not open an hour later."""
        while True:
            await self._drop_expired()
            await asyncio.sleep(_TEND_EVERY_S)

    async def _drop_expired(self) -> None:
        with contextlib.suppress(ServiceError):  # the spool's disk: told by those who write
            await self._spool.drop_expired()


class _Drainer:
    """Delivers to one sink, oldest first, for ever."""

    def __init__(self, spool: Spool, sink: DeliverySink, notify: Callable[[SinkState], None]) -> None:
        self._spool, self._sink, self._notify = spool, sink, notify
        self._backoff = Backoff(base_s=_FIRST_DELAY_S, cap_s=_LONGEST_DELAY_S, stable_s=0.0)
        self._finishing = asyncio.Event()
        self._max_entries = _MAX_ENTRIES
        self._forgetting: asyncio.Task[None] | None = None
        self._failures: Counter[int] = Counter()  # of the entries of the batch that fails at present, by their place
        self._keeps_up = True
        self._heard_s = -math.inf  # from the server
        self._down: str | None = None
        self._delivered = self._dead_lettered = 0

    def finish(self) -> None:
        """End `run` once nothing waits, or the sink is down."""
        self._finishing.set()
        self._spool.wake(self._sink.sink)

    async def run(self) -> None:
        """Deliver until `finish`."""
        while True:
            try:
                await self._deliver_all()
                goes_on = not self._finishing.is_set()
            except Exception as exc:  # noqa: BLE001 - a sink's boundary: a bug here must not end the deliveries of both
                goes_on = await self._pause(exc)
            else:
                if goes_on:
                    await self._spool.wait_for_news(self._sink.sink)
                    goes_on = await self._probe_if_idle()
            if not goes_on:
                return

    async def _probe_if_idle(self) -> bool:
        """See now and then whether the server is there, since nothing else would tell; False: `finish` was called."""
        if time.monotonic() - self._heard_s < _PROBE_EVERY_S:
            return True
        try:
            await self._sink.probe()
        except Exception as exc:  # noqa: BLE001 - as in `run`
            return await self._pause(exc)
        self._note_heard()
        if self._down is not None:
            self._tell_up(None)
        return True

    def _note_heard(self) -> None:
        self._heard_s = time.monotonic()
        self._backoff.note_success(self._heard_s)

    async def _deliver_all(self) -> None:
        """Deliver what waits, and look back each second for what was made alive again further ahead."""
        while batch := await self._read(after=0):
            await self._deliver_for_a_while(batch)
        self._failures.clear()

    async def _deliver_for_a_while(self, batch: Sequence[QueuedEntry]) -> None:
        """Deliver batch after batch; the next one is read, and the last one forgotten, while one is on its way."""
        until_s = time.monotonic() + _LOOK_BACK_S
        before = self._spool.accepted[self._sink.sink] - self._delivered
        try:
            while batch:
                upcoming = asyncio.create_task(self._read(after=batch[-1].seq))
                try:
                    began_s = time.monotonic()
                    await self._deliver(batch)
                    await self._give_way(time.monotonic() - began_s)
                    if time.monotonic() > until_s:
                        return
                    batch = await upcoming
                finally:
                    upcoming.cancel()
                    await asyncio.gather(upcoming, return_exceptions=True)
        finally:
            await self._forgotten()
            self._keeps_up = self._spool.accepted[self._sink.sink] - self._delivered <= before

    async def _give_way(self, took_s: float) -> None:
        """Leave most of the time to those who wait for their acceptance, unless that would make the backlog grow."""
        if self._is_gentle and took_s < _QUICK_S:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._finishing.wait(), 3 * took_s)

    @property
    def _is_gentle(self) -> bool:
        return self._keeps_up and self._spool.is_in_use and not self._finishing.is_set()

    async def _read(self, *, after: int) -> list[QueuedEntry]:
        max_entries, max_bytes = self._max_entries, _MAX_BYTES
        if self._is_gentle:
            max_entries, max_bytes = min(max_entries, _GENTLE_ENTRIES), _GENTLE_BYTES
        return await self._spool.oldest(self._sink.sink, max_entries=max_entries, max_bytes=max_bytes, after=after)

    async def _deliver(self, batch: Sequence[QueuedEntry]) -> None:
        """Deliver a batch; where something in it never can be, its halves, down to the one that is to blame."""
        try:
            too_old = await self._sink.deliver([queued.entry for queued in batch])
        except Exception as exc:
            self._failures.update(queued.seq for queued in batch)
            if isinstance(exc, TransientDatabaseError | TransientRedisError):
                raise
            if not isinstance(exc, DetectorWorkerError) and self._failures[batch[0].seq] <= _TRIES:
                raise  # a fault of ours, perhaps with one entry: worse than to bury it were that it holds up all others
            middle = len(batch) // 2
            if middle == 0:
                await self._bury(batch[0], exc)
            else:
                await self._deliver(batch[:middle])
                await self._deliver(batch[middle:])
            return
        await self._forgotten()
        # What is too old stays for the one who drops and counts it.
        seqs = [queued.seq for queued in batch if queued.entry.key not in too_old]
        self._forgetting = asyncio.create_task(self._forget(seqs))
        if self._failures:
            for queued in batch:
                self._failures.pop(queued.seq, None)
        self._max_entries = min(_MAX_ENTRIES, 2 * self._max_entries)
        self._note_heard()

    async def _forget(self, seqs: Sequence[int]) -> None:
        self._delivered += await self._spool.remove(seqs)
        self._tell_up(None)

    async def _forgotten(self) -> None:
        """Wait until the batch that was delivered last is out of the spool."""
        forgetting, self._forgetting = self._forgetting, None
        if forgetting is not None:
            await forgetting

    async def _bury(self, queued: QueuedEntry, error: Exception) -> None:
        await self._forgotten()  # which tells of a success: it came before
        reason = _reason(error)
        await self._spool.bury(queued.seq, reason, attempts=self._failures.pop(queued.seq))
        self._dead_lettered += 1
        _log.warning("Entry %s can never be delivered to %s: %s", queued.entry.key, self._sink.sink, reason)
        self._tell_up(f"dead letter {queued.entry.key}: {reason}")

    async def _pause(self, error: Exception) -> bool:
        """Tell why nothing moves, and wait until the next attempt is due; False: there shall be none."""
        self._max_entries = max(1, self._max_entries // 2)  # what is too much for a slow server in its time
        delay_s = self._backoff.next_delay_s()
        reason = _reason(error)
        if self._down != reason:
            foreseen = isinstance(error, TransientDatabaseError | TransientRedisError | ServiceError)
            text = "Delivery to %s stands still, next attempt in %.1f s: %s"
            _log.warning(text, self._sink.sink, delay_s, reason, exc_info=None if foreseen else error)
            self._down = reason
            self._tell(reason)
        try:
            await asyncio.wait_for(self._finishing.wait(), delay_s)
        except TimeoutError:
            return True
        return False

    def _tell_up(self, reason: str | None) -> None:
        self._down = None
        self._tell(reason)

    def _tell(self, reason: str | None) -> None:
        is_up = self._down is None
        numbers = (self._delivered, self._dead_lettered)
        self._notify(SinkState(self._sink.sink, is_up, reason, *numbers, self._sink.warnings))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
