import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support.spooling import creation, image, publication, update

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import EnsureTables, PatchRecord, Sink, SpoolEntry
from detector_worker.storage.spool.desk import SpoolDesk
from detector_worker.storage.spool.schema import VERSION
from detector_worker.storage.spool.spool import Spool

QUOTA = 1 << 30
REASON = "no such column"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool #1?.sqlite"  # characters that mean something in an address of SQLite's


@pytest.fixture
async def spool(path: Path) -> AsyncIterator[Spool]:
    spool = Spool(path, quota_bytes=QUOTA)
    await spool.start()
    yield spool
    await spool.stop()


@pytest.fixture
def desk(spool: Spool, path: Path) -> Iterator[SpoolDesk]:
    """Beside a spool that is in use."""
    with SpoolDesk(path, quota_bytes=QUOTA) as desk:
        yield desk


def patch(record_id: str, *, table: str = "cars") -> SpoolEntry:
    return SpoolEntry(f"{record_id}:patch", record_id, 1.0, PatchRecord(table, "record_id", record_id, {"paid": True}))


async def bury(spool: Spool, desk: SpoolDesk, *keys: str) -> None:
    found = desk.find(keys)
    await asyncio.gather(*(spool.bury(entry.seq, REASON, attempts=2) for entry in found))


async def waiting(spool: Spool, sink: Sink = Sink.POSTGRESQL) -> list[str]:
    queued = await spool.oldest(sink, max_entries=10_000, max_bytes=QUOTA)
    return [one.entry.key for one in queued]


def keys(desk: SpoolDesk) -> list[str]:
    return [entry.key for entry in desk.entries()]


def doomed(desk: SpoolDesk, names: Sequence[str] | None) -> list[str]:
    return [entry.key for entry in desk.doomed(names)]


async def test_the_status_is_what_the_worker_itself_sees(spool: Spool, desk: SpoolDesk) -> None:
    await spool.accept([creation("a"), update("a"), image("a", key="k"), creation("b")])
    await bury(spool, desk, "b:create")
    desk.drop(desk.find(["a:update"]))

    status = desk.status()

    assert status == replace(await spool.backlog(), accepted=0, refused=0)
    assert (status.pictures, status.dead_letters, status.lost) == (1, 1, {"removed": 1})


async def test_entries_are_listed_in_their_order_by_sink_visit_and_fate(spool: Spool, desk: SpoolDesk) -> None:
    await spool.accept([creation("a"), image("a", key="k"), creation("b"), update("b")])
    await bury(spool, desk, "b:update")

    assert keys(desk) == ["a:create", "a:image k", "b:create", "b:update"]
    assert [entry.key for entry in desk.entries(limit=2)] == ["a:create", "a:image k"]
    assert [entry.key for entry in desk.entries(sink=Sink.REDIS)] == ["a:image k"]
    assert [entry.key for entry in desk.entries(visit_id="b")] == ["b:create", "b:update"]
    (dead,) = desk.entries(dead_only=True)
    assert (dead.key, dead.dead_reason, dead.attempts) == ("b:update", REASON, 2)
    assert dead.dead_at is not None
    assert abs(time.time() - dead.dead_at) < 60
    assert desk.entries(visit_id="a", dead_only=True) == []
    assert desk.numbers(dead_only=True) == [dead.seq]
    assert desk.numbers() == [entry.seq for entry in desk.entries()]


async def test_an_entry_is_found_by_its_key_and_by_its_number(spool: Spool, desk: SpoolDesk) -> None:
    tables = SpoolEntry("2", "2", 1.0, EnsureTables({}))  # a key that looks like a number
    await spool.accept([tables, creation("a"), creation("b")])

    assert [entry.key for entry in desk.find(["3", "2", "b:create"])] == ["2", "b:create"]


async def test_what_is_not_there_is_named_without_its_control_characters(spool: Spool, desk: SpoolDesk) -> None:
    await spool.accept([creation("a")])

    with pytest.raises(ServiceError) as error:
        desk.find(["a:create", "x\x1b[2J\n", "99999999999999999999", "7"])

    assert r"There is no entry 'x\x1b[2J\n', '99999999999999999999', '7'" in str(error.value)


async def test_contents_are_shown_as_they_were_accepted(spool: Spool, desk: SpoolDesk) -> None:
    await spool.accept([creation("a", plate="B-ö 1"), image("a", key="k", content=b"\xff\xd8\x00")])

    record, picture = (desk.content(seq) for seq in desk.numbers())

    assert record is not None
    assert picture is not None
    fields = {"record_id": "a", "plate": "B-ö 1"}
    assert record.payload == {"table": "cars", "key_field": "record_id", "fields": fields}
    assert (record.picture, picture.picture) == (None, b"\xff\xd8\x00")
    assert picture.payload["key"] == "k"
    assert picture.entry == desk.entries()[1]
    assert desk.content(99) is None


async def test_a_payload_that_cannot_be_read_is_kept_as_it_is(spool: Spool, desk: SpoolDesk) -> None:
    await spool.accept([creation("a")])
    await spool.file.write(lambda connection: connection.execute("UPDATE entries SET payload = x'7bff'"))

    (seq,) = desk.numbers()
    content = desk.content(seq)

    assert content is not None
    assert content.payload == {"unreadable": "7bff"}
    assert doomed(desk, ["a:create"]) == ["a:create"]


async def test_a_retry_takes_along_what_died_of_its_visit_in_its_sink(spool: Spool, desk: SpoolDesk) -> None:
    await spool.accept([creation("a"), update("a"), image("a", key="k"), creation("b")])
    await bury(spool, desk, *keys(desk))
    await spool.accept([creation("c")])

    assert desk.retry(["a:update"]) == 2

    assert await waiting(spool) == ["a:create", "a:update", "c:create"]
    assert await waiting(spool, Sink.REDIS) == []
    assert [entry.key for entry in desk.entries(dead_only=True)] == ["a:image k", "b:create"]
    revived = desk.find(["a:create"])[0]
    assert (revived.dead_reason, revived.dead_at, revived.attempts) == (None, None, 2)
    assert (await spool.backlog()).dead_letters == 2


async def test_all_dead_letters_are_retried_however_many(spool: Spool, desk: SpoolDesk) -> None:
    await spool.accept([creation(f"{number:03}") for number in range(250)])
    await bury(spool, desk, *keys(desk)[:240])

    assert desk.retry(None) == 240
    assert desk.retry(None) == 0
    assert await waiting(spool) == keys(desk)


async def test_what_waits_is_no_dead_letter_to_be_retried(spool: Spool, desk: SpoolDesk) -> None:
    await spool.accept([creation("a")])

    with pytest.raises(ServiceError, match="None of these is a dead letter"):
        desk.retry(["a:create"])


async def test_with_a_record_go_the_later_updates_of_its_table(spool: Spool, desk: SpoolDesk) -> None:
    await spool.accept(
        [update("a", name="before"), creation("a"), update("a"), update("a", table="other", name="else"), patch("a")]
    )
    await spool.accept([creation("a", name="second"), image("a", key="k"), update("aa"), update("b")])
    await bury(spool, desk, "a:patch")

    assert doomed(desk, ["a:create"]) == ["a:create", "a:update", "a:patch"]
    assert doomed(desk, ["a:update", "b:update"]) == ["a:update", "b:update"]


async def test_with_dead_letters_go_the_updates_of_those_that_are_records(spool: Spool, desk: SpoolDesk) -> None:
    await spool.accept(
        [creation("a"), creation("b"), update("a", name="1"), update("b", name="2"), image("b", key="k")]
    )
    await bury(spool, desk, "b:create", "b:image k")

    assert doomed(desk, None) == ["b:create", "b:2", "b:image k"]


async def test_what_is_dropped_is_gone_and_counted(spool: Spool, desk: SpoolDesk) -> None:
    await spool.accept([creation("a"), publication("a", channel="c", message="m"), creation("b")])
    chosen = desk.find(["a:create", "a:publish m"])
    await spool.remove([chosen[0].seq])  # delivered while the operator was asked

    assert desk.drop(chosen) == 1

    assert keys(desk) == ["b:create"]
    assert (await spool.backlog()).lost == {"removed": 1}


async def test_changes_are_made_in_portions_between_which_the_worker_can_write(spool: Spool, desk: SpoolDesk) -> None:
    await spool.accept([creation(str(number)) for number in range(1_000)])
    entries, seen, path = desk.entries(), set[int](), spool.file._path

    def drop() -> None:
        with SpoolDesk(path, quota_bytes=QUOTA) as other:
            other.drop(entries)

    dropping = threading.Thread(target=drop)
    dropping.start()
    while dropping.is_alive():
        seen.add(len(desk.numbers()))
    dropping.join()

    assert len(seen - {0, 1_000}) >= 2


async def test_the_desk_waits_for_a_worker_that_is_writing(spool: Spool, desk: SpoolDesk, path: Path) -> None:
    await spool.accept([creation("a")])
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as worker:
        worker.execute("BEGIN IMMEDIATE")
        done = threading.Timer(0.3, worker.execute, ["COMMIT"])
        done.start()
        assert desk.drop(desk.entries()) == 1
        done.join()


def test_where_there_is_no_spool_none_is_made(path: Path) -> None:
    with pytest.raises(ServiceError, match="There is no spool here"), SpoolDesk(path, quota_bytes=QUOTA):
        pass

    assert not path.exists()


@pytest.mark.parametrize(("version", "mend"), [(VERSION - 1, "Start the worker once"), (VERSION + 1, "that wrote it")])
def test_a_file_of_another_version_is_left_as_it_is(path: Path, version: int, mend: str) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()

    with pytest.raises(ServiceError, match=mend), SpoolDesk(path, quota_bytes=QUOTA):
        pass

    assert path.read_bytes() == before


def test_a_file_that_is_no_spool_is_told(path: Path) -> None:
    path.write_bytes(b"no database" * 100)

    with pytest.raises(ServiceError, match="cannot be used: file is not a database"), SpoolDesk(path, quota_bytes=1):
        pass
