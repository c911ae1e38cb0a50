"""A spool with its drainers and a load, before servers of which some shall come to harm."""

import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from support.databases import config_of, create_database, drop_database
from support.storage_faults.harms import Harm, Patient
from support.storage_faults.judgement import (
    Hearing,
    hearing,
    judge_arrivals,
    judge_messages,
    judge_pictures,
    judge_rows,
)
from support.storage_faults.load import TABLES, Ledger, VisitLoad
from support.storage_faults.private_servers import PASSWORD, PrivatePostgresql, PrivateRedis, connected
from support.storage_faults.proxy import FaultyProxy

from detector_worker.core.clock import SystemClock
from detector_worker.core.outbox import Sink
from detector_worker.storage.database_manager import DatabaseConfig, DatabaseManager
from detector_worker.storage.drainers import Drainers, SinkState
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.redis_client import RedisClient
from detector_worker.storage.sinks import PostgresqlSink, RedisSink
from detector_worker.storage.spool.spool import Spool

__all__ = ["Bench", "Look", "bench"]

_GRACE_S: Final = 5.0


@dataclass(frozen=True)
class Look:
    """What was accepted and what waits, at a moment."""

    at: float
    """Seconds since 1970."""
    accepted: Mapping[Sink, int]
    waiting: Mapping[Sink, int]
    oldest_at: Mapping[Sink, float | None]
    dead_letters: int
    expired: int
    """Messages."""

    def flow_since(self, before: "Look") -> dict[Sink, float]:
        """Return delivered to accepted entries of each sink between two looks."""
        accepted = {sink: self.accepted[sink] - before.accepted[sink] for sink in Sink}
        missing = {sink: self.waiting[sink] - before.waiting[sink] for sink in Sink}
        missing[Sink.REDIS] += self.expired - before.expired
        return {sink: 1 - missing[sink] / accepted[sink] for sink in Sink}


@dataclass
class Bench:
    """Everything that `bench` has started."""

    patients: Sequence[Patient]
    database: DatabaseConfig
    """Past all proxies and passwords."""
    redis: Redis
    """As well."""
    spool: Spool
    load: VisitLoad
    ledger: Ledger
    heard: Hearing
    downs: list[float] = field(default_factory=list)
    """When a sink was said to be down, monotonic seconds."""

    def note(self, state: SinkState) -> None:
        """Take the drainers' news."""
        if not state.is_up:
            self.downs.append(time.monotonic())

    async def look(self) -> Look:
        """See what waits."""
        at, accepted, backlog = time.time(), dict(self.load.accepted), await self.spool.backlog()
        waiting = {sink: one.entries for sink, one in backlog.sinks.items()}
        oldest_at = {sink: one.oldest_at for sink, one in backlog.sinks.items()}
        return Look(at, accepted, waiting, oldest_at, backlog.dead_letters, backlog.lost.get("expired", 0))

    async def judge(self, is_sure: Callable[[float], bool]) -> list[str]:
        """Say what is wrong, once nothing waits; see `judge_messages` for ``is_sure``."""
        async with connected(self.database) as connection:
            problems = await judge_rows(connection, self.ledger)
            problems += await judge_arrivals(connection, self.ledger)
        problems += await judge_pictures(self.redis, self.ledger)
        problems += judge_messages(self.heard, self.ledger, is_sure=is_sure)
        problems += [f"refused: {error}" for error in self.load.refused]
        dead_letters = (await self.look()).dead_letters
        return [*problems, f"{dead_letters} dead letters"] if dead_letters else problems


@asynccontextmanager
async def bench(
    folder: Path, healthy: EmbeddedServers, *, harm: Harm, sinks: Collection[Sink], visits_per_s: float
) -> AsyncIterator[Bench]:
    """Start everything below ``folder``; ``healthy`` serves the sink that is not to come to harm."""
    async with AsyncExitStack() as running:
        patients: list[Patient] = []
        if Sink.POSTGRESQL in sinks:
            postgresql = await running.enter_async_context(PrivatePostgresql(folder / "pg"))
            proxy = await running.enter_async_context(FaultyProxy(postgresql.socket))
            patients.append(Patient(postgresql, proxy))
            database = postgresql.config()
            reached = postgresql.config(proxy=proxy if harm.needs_proxy else None, with_password=harm.needs_password)
        else:
            name = await create_database(healthy, template="template0")
            running.push_async_callback(drop_database, healthy, name)
            reached = database = config_of(healthy, name)
        redis_socket, redis_url = healthy.redis_socket, f"unix://{healthy.redis_socket}"
        if Sink.REDIS in sinks:
            redis = await running.enter_async_context(PrivateRedis(folder / "redis"))
            proxy = await running.enter_async_context(FaultyProxy(redis.socket))
            patients.append(Patient(redis, proxy))
            redis_socket = redis.socket
            redis_url = redis.url(proxy=proxy if harm.needs_proxy else None, with_password=harm.needs_password)
        async with connected(database) as connection:
            for statement in TABLES:
                await connection.execute(statement)
        if harm.needs_password:
            for patient in patients:
                await patient.server.demand_password()
        password = PASSWORD if harm.needs_password and Sink.REDIS in sinks else None
        client = await running.enter_async_context(Redis(unix_socket_path=str(redis_socket), password=password))
        heard = await running.enter_async_context(hearing(client))

        spool = Spool(folder / "spool.sqlite")
        await spool.start()
        running.push_async_callback(spool.stop)
        ledger = Ledger()
        load = VisitLoad(spool, visits_per_s, ledger.note)
        made = Bench(patients, database, client, spool, load, ledger, heard)
        drainers = _drainers(spool, reached, redis_url, made.note, running)
        drainers.start()
        running.push_async_callback(drainers.stop, _GRACE_S)
        yield made


def _drainers(
    spool: Spool, database: DatabaseConfig, redis_url: str, notify: Callable[[SinkState], None], running: AsyncExitStack
) -> Drainers:
    clock, manager, client = SystemClock(), DatabaseManager(database, auto_migrate=True), RedisClient(redis_url)
    running.push_async_callback(manager.disconnect)
    running.push_async_callback(client.disconnect)
    sinks = (PostgresqlSink(manager, auto_migrate=True, clock=clock), RedisSink(client, clock=clock))
    return Drainers(spool, sinks, notify=notify)
