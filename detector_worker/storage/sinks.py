"""How entries of the spool become rows, pictures and messages: a batch as a whole, once in effect."""

import logging
import math
from collections.abc import Sequence
from itertools import groupby
from typing import Final, Protocol

from detector_worker.core.clock import Clock
from detector_worker.core.exceptions import DatabaseError
from detector_worker.core.outbox import EnsureTables, PublishMessage, Sink, SpoolEntry, StoreImage
from detector_worker.storage.database_manager import DatabaseManager
from detector_worker.storage.redis_client import Command, RedisClient

__all__ = ["DeliverySink", "PostgresqlSink", "RedisSink"]

_logger = logging.getLogger(__name__)
_PRUNE_EVERY_S: Final = 600.0
_MARGIN_S: Final = 60
# Only who sets the key publishes: after a lost answer the same message is not heard twice.
_PUBLISH_ONCE: Final = """
if redis.call('SET', KEYS[1], '', 'NX', 'EX', ARGV[1]) then redis.call('PUBLISH', ARGV[2], ARGV[3]) end
"""
_DELIVERED_PREFIX: Final = "detector_worker:delivered:"


class DeliverySink(Protocol):
    """One receiver. Owned by one drainer task."""

    @property
    def sink(self) -> Sink:
        """Whose entries it takes."""
        ...

    async def deliver(self, entries: Sequence[SpoolEntry]) -> int:
        """Deliver a batch in its order and return how many were dropped since they were too old.

        To deliver the same entries again has no further effect. A transient error: later, all of them again; any
        other: at least one of them can never be delivered.
        """
        ...

    def abort(self) -> None:
        """Cut what cancelling would not end at once."""
        ...


class PostgresqlSink:
    """Rows, and the tables that archives declare."""

    sink: Final = Sink.POSTGRESQL

    def __init__(self, database: DatabaseManager, *, auto_migrate: bool, clock: Clock) -> None:
        """``auto_migrate``: add missing tables and columns; else they are only told."""
        self._database, self._auto_migrate, self._clock = database, auto_migrate, clock
        self._pruned_s = clock.monotonic_s()

    async def deliver(self, entries: Sequence[SpoolEntry]) -> int:
        for declares, run in groupby(entries, key=lambda entry: isinstance(entry.delivery, EnsureTables)):
            if declares:
                for entry in run:
                    await self._declare(entry)
            else:
                await self._database.write(list(run))
        await self._prune()
        return 0

    def abort(self) -> None:
        self._database.throw_away_pool()

    async def _prune(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._pruned_s < _PRUNE_EVERY_S:
            return
        self._pruned_s = now_s
        try:
            await self._database.prune_delivered()
        except DatabaseError as exc:  # the batch is delivered: this is none of its faults
            _logger.warning("Old keys could not be pruned: %s", exc)

    async def _declare(self, entry: SpoolEntry) -> None:
        assert isinstance(entry.delivery, EnsureTables)
        missing = await self._database.ensure_tables(entry.delivery.tables, add=self._auto_migrate)
        if missing and not self._auto_migrate:
            _logger.warning("An archive declares what the database has not, database.auto_migrate is off: %s", missing)


class RedisSink:
    """Pictures and messages."""

    sink: Final = Sink.REDIS

    def __init__(self, client: RedisClient, *, clock: Clock) -> None:
        self._client, self._clock = client, clock

    async def deliver(self, entries: Sequence[SpoolEntry]) -> int:
        now = self._clock.utc_s()
        commands = [command for entry in entries if (command := _command(entry, now)) is not None]
        if commands:
            await self._client.pipeline(commands)
        return len(entries) - len(commands)

    def abort(self) -> None:
        """Nothing: this driver drops its connection when it is cancelled."""


def _command(entry: SpoolEntry, now: float) -> Command | None:
    """Return the command that delivers an entry, or None where it is too old by ``now``, seconds since 1970."""
    match entry.delivery:
        case StoreImage(key=key, image=image, expire_s=expire_s):
            return ("SET", key, image, "EX", expire_s)
        case PublishMessage(channel=channel, message=message, max_age_s=max_age_s):
            if now - entry.created_at > max_age_s:
                return None
            # Past that time it is dropped in any case, so its key need not live longer.
            lives_s = math.ceil(max_age_s) + _MARGIN_S
            return ("EVAL", _PUBLISH_ONCE, 1, _DELIVERED_PREFIX + entry.key, lives_s, channel, message)
        case delivery:
            raise AssertionError(f"a {type(delivery).__name__} is not for Redis")
