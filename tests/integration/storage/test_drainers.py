import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from support.databases import config_of
from support.folders import open_folder
from support.spooling import StateLog, creation, image, publication, update
from support.waiting import wait_until

from detector_worker.core.clock import SystemClock
from detector_worker.core.exceptions import DatabaseError
from detector_worker.core.outbox import EnsureTables, Sink, SpoolEntry
from detector_worker.storage.database_manager import DatabaseManager
from detector_worker.storage.drainers import Drainers
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.redis_client import RedisClient, RedisSubscriber
from detector_worker.storage.sinks import DeliverySink, PostgresqlSink, RedisSink
from detector_worker.storage.spool.desk import SpoolDesk
from detector_worker.storage.spool.spool import Spool

GRACE_S = 5.0


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path / "spool.db")
    await spool.start()
    yield spool
    await spool.stop()


@pytest.fixture
async def cars(database: DatabaseManager) -> DatabaseManager:
    await database.execute_query("CREATE TABLE cars (record_id uuid PRIMARY KEY, brand text, seen int)")
    return database


@pytest.fixture
def to_postgresql(cars: DatabaseManager) -> PostgresqlSink:
    return PostgresqlSink(cars, auto_migrate=True, clock=SystemClock())


@pytest.fixture
def to_redis(redis_client: RedisClient) -> RedisSink:
    return RedisSink(redis_client, clock=SystemClock())


@asynccontextmanager
async def draining(spool: Spool, *sinks: DeliverySink) -> AsyncIterator[StateLog]:
    log = StateLog()
    drainers = Drainers(spool, sinks, notify=log)
    drainers.start()
    try:
        yield log
    finally:
        await drainers.stop(GRACE_S)


async def waiting(spool: Spool, sink: Sink) -> int:
    return (await spool.backlog()).sinks[sink].entries


async def until_empty(spool: Spool, *, timeout_s: float = 10.0) -> None:
    async def empty() -> bool:
        return all(sink.entries == 0 for sink in (await spool.backlog()).sinks.values())

    await wait_until(empty, timeout_s=timeout_s)


async def drain(spool: Spool, *sinks: DeliverySink) -> StateLog:
    async with draining(spool, *sinks) as log:
        await until_empty(spool)
    return log


async def brands(database: DatabaseManager) -> dict[str, object]:
    rows = await database.execute_query("SELECT record_id::text AS id, brand FROM cars")
    return {str(row["id"]): row["brand"] for row in rows}


def ids(number: int) -> list[str]:
    return [str(uuid4()) for _ in range(number)]


async def test_records_pictures_and_messages_arrive(
    spool: Spool, cars: DatabaseManager, redis_client: RedisClient, to_postgresql: PostgresqlSink, to_redis: RedisSink
) -> None:
    (record_id,) = ids(1)
    subscriber = RedisSubscriber(redis_client)
    await subscriber.subscribe("gate")
    async with draining(spool, to_postgresql, to_redis):
        await spool.accept(
            [
                creation(record_id, brand=None),
                image(record_id, key="crop", content=b"\xff\xd8", expire_s=60),
                publication(record_id, channel="gate", message="hello"),
                update(record_id, brand="Toyota"),
            ]
        )
        await until_empty(spool)

    assert await brands(cars) == {record_id: "Toyota"}
    assert await redis_client.get("crop") == b"\xff\xd8"
    assert await asyncio.wait_for(anext(subscriber.listen()), 5) == ("gate", b"hello")
    assert 0 < (await redis_client.pipeline([("TTL", "crop")]))[0] <= 60
    await subscriber.close()


async def test_what_was_accepted_while_nobody_drained_arrives_in_order_per_visit(
    spool: Spool, cars: DatabaseManager, to_postgresql: PostgresqlSink
) -> None:
    visits = ids(400)  # with the updates more than one batch
    await spool.accept([creation(one, brand="0") for one in visits])
    for number in range(1, 4):
        await spool.accept([update(one, name=f"update {number}", brand=str(number)) for one in visits])

    await drain(spool, to_postgresql)

    assert await brands(cars) == dict.fromkeys(visits, "3")


async def test_two_visits_that_update_one_row_do_it_in_their_order(
    spool: Spool, cars: DatabaseManager, to_postgresql: PostgresqlSink
) -> None:
    (row,) = ids(1)
    await spool.accept([creation(row)])
    for number in range(21):  # in two shapes, so that they cannot all go in one statement
        name, brand = f"by {number}", str(number)
        entry = update(row, name=name, brand=brand, seen=number) if number % 2 else update(row, name=name, brand=brand)
        await spool.accept([SpoolEntry(entry.key, f"visit {number}", entry.created_at, entry.delivery)])

    await drain(spool, to_postgresql)

    assert await brands(cars) == {row: "20"}


async def test_entries_whose_deletion_from_the_spool_was_lost_have_no_second_effect(
    tmp_path: Path, cars: DatabaseManager, redis_client: RedisClient, to_postgresql: PostgresqlSink, to_redis: RedisSink
) -> None:
    visits = ids(20)
    entries = [
        entry
        for one in visits
        for entry in (
            creation(one, seen=1),
            update(one, brand="first"),
            image(one, key=one),
            publication(one, channel="gate", message=one),
        )
    ]
    subscriber = RedisSubscriber(redis_client)
    await subscriber.subscribe("gate", "end")
    for life in range(2):
        spool = Spool(tmp_path / f"{life}.db")  # the second life: as if no deletion had reached the disk
        await spool.start()
        await spool.accept(entries)
        log = await drain(spool, to_postgresql, to_redis)
        assert [state for state in log.states if state.dead_lettered] == []
        await spool.stop()
        await cars.execute_query("UPDATE cars SET brand = 'touched'")

    await redis_client.pipeline([("PUBLISH", "end", "end")])
    heard = []
    async for channel, message in subscriber.listen():
        if channel == "end":
            break
        heard.append(message.decode())
    await subscriber.close()
    assert heard == visits
    assert await brands(cars) == dict.fromkeys(visits, "touched")


async def test_a_poison_record_is_buried_and_all_around_it_arrives(
    spool: Spool, cars: DatabaseManager, to_postgresql: PostgresqlSink
) -> None:
    before, poisoned, after = ids(100), ids(3), ids(100)
    poison = [
        creation(poisoned[0], seen="not a number"),
        creation(poisoned[1], table="no such table"),
        creation(poisoned[2], no_such_column=1),
    ]
    await spool.accept([creation(one) for one in before])
    await spool.accept(poison)
    await spool.accept([creation(one) for one in after])

    async with draining(spool, to_postgresql) as log:
        began_s = time.monotonic()
        await until_empty(spool)
        took_s = time.monotonic() - began_s

    assert set(await brands(cars)) == {*before, *after}
    assert (await spool.backlog()).dead_letters == 3
    reasons = [state.reason or "" for state in log.states if state.reason]
    for word, record_id in zip(["not a number", "no such table", "no_such_column"], poisoned, strict=True):
        assert any(word in reason and record_id in reason for reason in reasons)
    assert all(state.is_up for state in log.states)
    assert took_s < 5


async def test_an_update_that_finds_no_row_and_a_second_visit_with_a_taken_key_are_dead_letters(
    spool: Spool, cars: DatabaseManager, to_postgresql: PostgresqlSink
) -> None:
    taken, absent = ids(2)
    await spool.accept([creation(taken, brand="first"), creation(taken, name="other visit", brand="second")])
    await spool.accept([update(absent, brand="x")])

    log = await drain(spool, to_postgresql)

    reasons = " ".join(state.reason or "" for state in log.states)
    assert await brands(cars) == {taken: "first"}
    assert (await spool.backlog()).dead_letters == 2
    assert "23505" in reasons
    assert "found no row" in reasons


async def test_declared_tables_exist_before_their_first_row(
    spool: Spool, database: DatabaseManager, to_postgresql: PostgresqlSink
) -> None:
    (record_id,) = ids(1)
    tables = {"trucks": {"record_id": "uuid primary key", "brand": "text"}}
    await spool.accept([SpoolEntry("tables 1", "", 0.0, EnsureTables(tables))])
    await spool.accept([creation(record_id, table="trucks", brand="MAN")])

    await drain(spool, to_postgresql)

    assert await database.get_record("trucks", record_id, "record_id") == {"record_id": record_id, "brand": "MAN"}


async def test_without_auto_migrate_a_declaration_changes_nothing_and_is_no_dead_letter(
    spool: Spool, cars: DatabaseManager
) -> None:
    sink = PostgresqlSink(cars, auto_migrate=False, clock=SystemClock())
    await spool.accept([SpoolEntry("tables", "", 0.0, EnsureTables({"trucks": {"record_id": "uuid"}}))])

    await drain(spool, sink)

    assert await cars.execute_query("SELECT 1 FROM pg_tables WHERE tablename = 'trucks'") == []
    assert (await spool.backlog()).dead_letters == 0


async def test_a_hostile_declaration_is_a_dead_letter_that_names_it(
    spool: Spool, cars: DatabaseManager, to_postgresql: PostgresqlSink
) -> None:
    hostile = EnsureTables({"trucks": {"x": "text); DROP TABLE cars; --"}})
    await spool.accept([SpoolEntry("tables", "", 0.0, hostile)])

    log = await drain(spool, to_postgresql)

    assert "DROP TABLE cars" in (log.states[-1].reason or "")
    assert await brands(cars) == {}


async def test_a_message_older_than_its_age_is_dropped_and_counted(
    spool: Spool, redis_client: RedisClient, to_redis: RedisSink
) -> None:
    subscriber = RedisSubscriber(redis_client)
    await subscriber.subscribe("gate")
    await spool.accept(
        [
            publication("a", channel="gate", message="old", max_age_s=30, created_at=time.time() - 31),
            publication("b", channel="gate", message="new", max_age_s=30, created_at=time.time() - 25),
        ]
    )

    log = await drain(spool, to_redis)

    assert await asyncio.wait_for(anext(subscriber.listen()), 5) == ("gate", b"new")
    assert log.states[-1].delivered == 1
    assert (await spool.backlog()).lost == {"expired": 1}
    await subscriber.close()


class Receiver:
    """What receivers of these tests have in common."""

    sink = Sink.POSTGRESQL
    warnings: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    @property
    def taken(self) -> list[str]:
        return [key for batch in self.batches for key in batch]

    async def deliver(self, entries: Sequence[SpoolEntry]) -> Collection[str]:
        self.batches.append([entry.key for entry in entries])
        return ()

    async def probe(self) -> None:
        pass

    def abort(self) -> None:
        pass


class StuckSink(Receiver):
    """A receiver that is never done: what a frozen server looks like."""

    sink = Sink.REDIS

    def __init__(self) -> None:
        super().__init__()
        self.aborted = asyncio.Event()

    async def deliver(self, entries: Sequence[SpoolEntry]) -> Collection[str]:
        await self.aborted.wait()
        return ()

    def abort(self) -> None:
        self.aborted.set()


async def test_a_stuck_sink_holds_up_neither_the_other_one_nor_the_stop(
    spool: Spool, cars: DatabaseManager, to_postgresql: PostgresqlSink
) -> None:
    (record_id,) = ids(1)
    drainers = Drainers(spool, [StuckSink(), to_postgresql], notify=StateLog())
    drainers.start()
    await spool.accept([image(record_id, key="k"), creation(record_id)])

    await wait_until(lambda: brands(cars))
    began_s = time.monotonic()
    await drainers.stop(0.2)

    assert time.monotonic() - began_s < 1.5
    assert list(await brands(cars)) == [record_id]


async def test_a_server_that_is_away_is_noticed_although_nothing_waits(spool: Spool, tmp_path: Path) -> None:
    nobody = RedisSink(RedisClient(f"unix://{tmp_path}/nobody"), clock=SystemClock())

    async with draining(spool, nobody) as log:
        await wait_until(lambda: log.states)

    assert not log.states[0].is_up


class StumblingSink(Receiver):
    """A receiver that has a bug, and shows it with one entry."""

    async def deliver(self, entries: Sequence[SpoolEntry]) -> Collection[str]:
        if any(entry.visit_id == "odd" for entry in entries):
            raise ZeroDivisionError
        return await super().deliver(entries)


async def test_an_entry_that_nobody_foresaw_does_not_hold_up_the_others_for_ever(spool: Spool) -> None:
    sink = StumblingSink()
    await spool.accept([creation("a"), creation("odd"), creation("b")])

    async with draining(spool, sink):
        await until_empty(spool)

    assert sink.taken == ["a:create", "b:create"]
    assert (await spool.backlog()).sinks[Sink.POSTGRESQL].dead_letters == 1


class SlowSink(Receiver):
    """A receiver that takes its time for each batch."""

    def __init__(self, batch_s: float) -> None:
        super().__init__()
        self._batch_s = batch_s

    async def deliver(self, entries: Sequence[SpoolEntry]) -> Collection[str]:
        await asyncio.sleep(self._batch_s)
        return await super().deliver(entries)


async def test_a_dead_letter_made_alive_again_does_not_wait_for_the_whole_backlog(spool: Spool, tmp_path: Path) -> None:
    await spool.accept([creation("dead")])
    (queued,) = await spool.oldest(Sink.POSTGRESQL, max_entries=1, max_bytes=1)
    await spool.bury(queued.seq, "no such table", attempts=1)
    await spool.accept([creation(str(number)) for number in range(14_000)])
    sink = SlowSink(0.5)
    drainers = Drainers(spool, [sink], notify=StateLog())
    drainers.start()
    await wait_until(lambda: sink.taken)

    with SpoolDesk(tmp_path / "spool.db", quota_bytes=1 << 30) as desk:
        desk.retry(["dead:create"])
    await wait_until(lambda: "dead:create" in sink.taken, timeout_s=3)

    assert len(sink.taken) < 13_000  # there is a backlog still
    await drainers.stop(0.0)


REST_S = 2.1
"""So long after the last acceptance nobody is taken for waiting."""


async def accept_steadily(spool: Spool, per_s: float, *, text: str = "") -> None:
    """Accept so many entries a second, until cancelled."""
    began_s = time.monotonic()
    for number in itertools.count():
        await spool.accept([creation(f"steady-{number}", text=text)])
        await asyncio.sleep(max(0.0, began_s + number / per_s - time.monotonic()))


async def test_a_backlog_gives_way_to_those_who_accept(spool: Spool) -> None:
    await spool.accept([creation(str(number)) for number in range(6_000)])
    await asyncio.sleep(REST_S)
    sink, accepting = Receiver(), asyncio.ensure_future(accept_steadily(spool, 50))
    await asyncio.sleep(0.2)
    drainers = Drainers(spool, [sink], notify=StateLog())
    drainers.start()
    await wait_until(lambda: len(sink.batches) > 3)
    accepting.cancel()
    await drainers.stop(GRACE_S)

    assert max(map(len, sink.batches[:3])) <= 100


async def test_a_backlog_goes_out_in_large_portions_where_nobody_waits(spool: Spool) -> None:
    await spool.accept([creation(str(number)) for number in range(3_000)])
    await asyncio.sleep(REST_S)

    sink = Receiver()
    await drain(spool, sink)

    assert max(map(len, sink.batches)) > 1_000


async def test_giving_way_adds_nothing_to_the_time_of_a_slow_server(spool: Spool) -> None:
    accepting = asyncio.ensure_future(accept_steadily(spool, 40))
    sink = SlowSink(0.1)
    drainers = Drainers(spool, [sink], notify=StateLog())
    drainers.start()
    await asyncio.sleep(2.0)
    accepting.cancel()
    await drainers.stop(GRACE_S)

    assert len(sink.batches) > 10  # with three times the pause it would be 5


async def test_giving_way_ends_where_the_backlog_would_grow(spool: Spool) -> None:
    accepting = asyncio.ensure_future(accept_steadily(spool, 60, text="x" * 300_000))
    sink = SlowSink(0.025)  # quick, but with its pauses it would take 30 a second
    drainers = Drainers(spool, [sink], notify=StateLog())
    drainers.start()
    await asyncio.sleep(4.0)
    left = await waiting(spool, Sink.POSTGRESQL)
    accepting.cancel()
    await drainers.stop(GRACE_S)

    assert left < 60


class RefusingSink(Receiver):
    """A receiver that refuses one entry at once."""

    async def deliver(self, entries: Sequence[SpoolEntry]) -> Collection[str]:
        if any(entry.visit_id == "odd" for entry in entries):
            raise DatabaseError("No such table", where="PostgreSQL", mend="Make it.")
        return await super().deliver(entries)


async def test_the_last_that_is_told_of_a_batch_is_what_came_last(spool: Spool) -> None:
    await spool.accept([creation("good"), creation("odd")])

    log = await drain(spool, RefusingSink())

    assert "dead letter" in (log.states[-1].reason or "")
    assert log.states[-1].delivered == 1


async def test_a_stop_delivers_what_is_there(
    spool: Spool, cars: DatabaseManager, to_postgresql: PostgresqlSink
) -> None:
    visits = ids(2_000)
    await spool.accept([creation(one) for one in visits])
    drainers = Drainers(spool, [to_postgresql], notify=StateLog())
    drainers.start()

    await drainers.stop(GRACE_S)

    assert len(await brands(cars)) == len(visits)
    assert await waiting(spool, Sink.POSTGRESQL) == 0


async def test_a_stop_while_a_sink_is_down_keeps_its_entries_and_does_not_wait(spool: Spool, tmp_path: Path) -> None:
    sink = RedisSink(RedisClient(f"unix://{tmp_path}/nobody"), clock=SystemClock())
    log = StateLog()
    drainers = Drainers(spool, [sink], notify=log)
    drainers.start()
    await spool.accept([image("a", key="k")])
    await wait_until(lambda: log.states)
    began_s = time.monotonic()

    await drainers.stop(GRACE_S)

    assert time.monotonic() - began_s < 2
    assert not log.states[0].is_up
    assert "nobody" in (log.states[0].reason or "")
    assert await waiting(spool, Sink.REDIS) == 1


@pytest.fixture
async def private_servers() -> AsyncIterator[EmbeddedServers]:
    with open_folder() as folder, EmbeddedServers(folder / "data") as running:
        yield running


async def test_both_servers_killed_while_draining_lose_and_double_nothing(
    spool: Spool, private_servers: EmbeddedServers
) -> None:
    visits = ids(1_500)
    async with (
        DatabaseManager(config_of(private_servers), auto_migrate=True) as database,
        RedisClient(f"unix://{private_servers.redis_socket}") as client,
    ):
        # No key of its own: a row that was written twice would show.
        await database.execute_query("CREATE TABLE cars (record_id uuid, brand text)")
        sinks = (
            PostgresqlSink(database, auto_migrate=True, clock=SystemClock()),
            RedisSink(client, clock=SystemClock()),
        )
        async with draining(spool, *sinks) as log:
            for start in range(0, len(visits), 50):
                for one in visits[start : start + 50]:
                    await spool.accept([creation(one, brand="a"), image(one, key=one), update(one, brand=f"b {one}")])
                if start in {300, 900}:
                    for pid in private_servers.processes().values():
                        psutil.Process(pid).kill()
            await until_empty(spool, timeout_s=30)

        assert await database.execute_query("SELECT count(*) AS n FROM cars") == [{"n": len(visits)}]
        assert await brands(database) == {one: f"b {one}" for one in visits}
        assert None not in await client.pipeline([("GET", one) for one in visits])
    assert (await spool.backlog()).dead_letters == 0
    for sink in Sink:
        told = [state.is_up for state in log.states if state.sink is sink]
        assert False in told
        assert told[-1]
