"""How entries of the spool become rows, pictures and messages: a batch as a whole, once in effect."""

import logging
import math
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Final, Protocol

from detector_worker.core.clock import Clock
from detector_worker.core.exceptions import DatabaseError, RedisError
from detector_worker.core.outbox import EnsureTables, PublishMessage, Sink, SpoolEntry, StoreImage
from detector_worker.storage.database_manager import DatabaseManager
from detector_worker.storage.redis.channels import Publication, publish_once_command
from detector_worker.storage.redis.images import ImageInfo, image_commands
from detector_worker.storage.redis.pool import Command, RedisClient
from detector_worker.storage.redis.survey import survey_server

__all__ = ["DeliverySink", "PostgresqlSink", "RedisSink"]

_logger = logging.getLogger(__name__)
_PRUNE_EVERY_S: Final = 600.0
_PRUNE_S: Final = 1.0
_REMEMBER_S: Final = 86_400


class DeliverySink(Protocol):
    """One receiver. Owned by one drainer task."""

    @property
    def sink(self) -> Sink:
        """Whose entries it takes."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the server may lose by itself; empty while nothing is known."""
        ...

    async def deliver(self, entries: Sequence[SpoolEntry]) -> Collection[str]:
        """Deliver a batch in its order and return the keys of those that were not, since they were too old.

        To deliver the same entries again has no further effect. A transient error: later, all of them again; any
        other: at least one of them can never be delivered.
        """
        ...

    async def probe(self) -> None:
        """Ask the server for a sign of life; an error as in `deliver` where there is none."""
        ...

    def abort(self) -> None:
        """Cut what cancelling would not end at once."""
        ...


class PostgresqlSink:
    """Rows, and the tables that archives declare."""

    sink: Final = Sink.POSTGRESQL
    warnings: Final[tuple[str, ...]] = ()

    def __init__(self, database: DatabaseManager, *, auto_migrate: bool, clock: Clock) -> None:
        """``auto_migrate``: add missing tables and columns; else they are only told."""
        self._database, self._auto_migrate, self._clock = database, auto_migrate, clock
        self._pruned_s = clock.monotonic_s()

    async def deliver(self, entries: Sequence[SpoolEntry]) -> Collection[str]:
        for declares, run in groupby(entries, key=_declares):
            if declares:
                for entry in run:
                    await self._declare(entry)
            else:
                await self._database.write(list(run))
        await self._prune()
        return ()

    async def probe(self) -> None:
        await self._database.write([])

    def abort(self) -> None:
        self._database.throw_away_pool()

    async def _prune(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._pruned_s < _PRUNE_EVERY_S:
            return
        self._pruned_s = now_s
        try:
            while await self._database.prune_delivered() and self._clock.monotonic_s() - now_s < _PRUNE_S:
                pass
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
        self._surveyed = 0
        self._warnings: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What this server may lose, and which setting mends it; known after the first delivery to it."""
        return self._warnings

    async def deliver(self, entries: Sequence[SpoolEntry]) -> Collection[str]:
        deliveries = [entry.delivery for entry in entries]
        ahead_s = await self._measure_clock() if any(isinstance(one, PublishMessage) for one in deliveries) else 0.0
        owned = [(entry.key, command) for entry in entries for command in _commands(entry, ahead_s)]
        replies = await self._client.pipeline([command for _, command in owned])
        await self._survey()
        told = zip(owned, replies, strict=True)
        return {key for (key, command), reply in told if command[0] == "EVAL" and reply == Publication.TOO_OLD}

    async def probe(self) -> None:
        await self._client.pipeline([("TIME",)])
        await self._survey()

    def abort(self) -> None:
        """Nothing: this driver drops its connection when it is cancelled."""

    async def _measure_clock(self) -> float:
        """Return by how much the server's clock is ahead of ours, seconds; less by as long as the answer took."""
        ((seconds, microseconds),) = await self._client.pipeline([("TIME",)])
        return int(seconds) + int(microseconds) / 1_000_000 - self._clock.utc_s()

    async def _survey(self) -> None:
        """After each new connection, look whether the server may lose what it takes."""
        connections = self._client.connections_made
        if connections == self._surveyed:
            return
        try:
            warnings = await survey_server(self._client)
        except RedisError:  # the batch is delivered: this is none of its faults, and the next one looks again
            return
        for warning in set(warnings) - set(self._warnings):
            _logger.warning("%s", warning)
        self._surveyed, self._warnings = connections, warnings


def _declares(entry: SpoolEntry) -> bool:
    return isinstance(entry.delivery, EnsureTables)


def _commands(entry: SpoolEntry, ahead_s: float) -> tuple[Command, ...]:
    """Return the commands that deliver an entry to a server whose clock is ``ahead_s`` ahead of ours."""
    match entry.delivery:
        case StoreImage(key=key, image=image, expire_s=expire_s, captured_at=captured_at, sha256=sha256):
            info = ImageInfo(len(image), captured_at, entry.visit_id, sha256)
            return image_commands(key, image, info, expire_s=expire_s)
        case PublishMessage(channel=channel, message=message, max_age_s=max_age_s):
            until_s = entry.created_at + max_age_s + ahead_s
            # Past its time this entry is dropped; but a run that is made again after a crash tells it anew.
            remember_s = math.ceil(max_age_s) + _REMEMBER_S
            return (publish_once_command(entry.key, channel, message, until_s=until_s, remember_s=remember_s),)
        case delivery:
            raise AssertionError(f"a {type(delivery).__name__} is not for Redis")
