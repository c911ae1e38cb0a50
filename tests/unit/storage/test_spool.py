import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.spooling import creation, image, publication, update, visit

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import CreateRecord, EnsureTables, SavedVisit, Sink, SpoolEntry, StoreImage
from detector_worker.storage.spool.spool import Spool

MANY = 10_000
LARGE = 1 << 30


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path / "spool.db")
    await spool.start()
    yield spool
    await spool.stop()


async def waiting(spool: Spool, sink: Sink = Sink.POSTGRESQL) -> list[SpoolEntry]:
    return [queued.entry for queued in await spool.oldest(sink, max_entries=MANY, max_bytes=LARGE)]


async def reopened(path: Path) -> Spool:
    spool = Spool(path)
    await spool.start()
    return spool


async def test_entries_come_back_as_they_were_accepted_in_their_order(spool: Spool) -> None:
    records: list[SpoolEntry] = [
        SpoolEntry("tables", "", 1.5, EnsureTables({"cars": {"record_id": "uuid primary key"}})),
        creation("a", plate="B-ö 1", seen=3, certain=0.5, parked=True, brand=None, box=[1, 2], more={"x": "y"}),
        update("a", brand="Toyota"),
    ]
    pictures = [
        image("a", key="k", content=bytes(range(256)), expire_s=9),
        publication("a", channel="c", message="{}", max_age_s=3, created_at=time.time() - 0.25),
    ]

    await spool.accept([records[0], pictures[0], *records[1:], pictures[1]])

    assert await waiting(spool, Sink.POSTGRESQL) == records
    assert await waiting(spool, Sink.REDIS) == pictures


async def test_a_key_that_waits_is_not_taken_a_second_time(spool: Spool) -> None:
    first, other = creation("a", brand="first"), creation("b")
    await spool.accept([first])
    await spool.accept([creation("a", brand="second"), other])

    assert await waiting(spool) == [first, other]


async def test_a_dead_key_is_not_taken_again(spool: Spool) -> None:
    await spool.accept([creation("a")])
    (queued,) = await spool.oldest(Sink.POSTGRESQL, max_entries=1, max_bytes=LARGE)
    await spool.bury(queued.seq, "no such table", attempts=1)

    await spool.accept([creation("a")])

    assert await waiting(spool) == []
    assert (await spool.backlog()).dead_letters == 1


async def test_removed_entries_are_gone(spool: Spool) -> None:
    await spool.accept([creation("a"), creation("b"), creation("c")])
    queued = await spool.oldest(Sink.POSTGRESQL, max_entries=2, max_bytes=LARGE)

    await spool.remove([entry.seq for entry in queued])

    assert [entry.key for entry in await waiting(spool)] == ["c:create"]


async def test_a_batch_is_bounded_by_bytes_but_never_empty(spool: Spool) -> None:
    await spool.accept([image(str(n), key=str(n), content=bytes(1000)) for n in range(5)])

    assert len(await spool.oldest(Sink.REDIS, max_entries=MANY, max_bytes=3_500)) == 2
    assert len(await spool.oldest(Sink.REDIS, max_entries=MANY, max_bytes=10)) == 1


async def test_the_backlog_counts_entries_bytes_and_the_oldest(spool: Spool) -> None:
    await spool.accept([image("a", key="k", content=bytes(1000)), image("b", key="l", content=bytes(1000))])

    backlog = await spool.backlog()

    assert backlog.sinks[Sink.REDIS].entries == 2
    assert 2000 < backlog.sinks[Sink.REDIS].size_bytes == backlog.size_bytes < 4000
    assert backlog.pictures == 2
    assert backlog.sinks[Sink.REDIS].oldest_at == (await waiting(spool, Sink.REDIS))[0].created_at
    assert backlog.sinks[Sink.POSTGRESQL].entries == 0
    assert backlog.sinks[Sink.POSTGRESQL].oldest_at is None


async def test_a_waiting_drainer_is_woken_by_its_own_sink_only(spool: Spool) -> None:
    await spool.oldest(Sink.REDIS, max_entries=1, max_bytes=1)
    news = asyncio.ensure_future(spool.wait_for_news(Sink.REDIS))

    await spool.accept([creation("a")])
    assert not news.done()

    await spool.accept([image("a", key="k")])
    await asyncio.wait_for(news, 1)


async def test_visits_and_sequences_survive_a_restart(tmp_path: Path) -> None:
    spool = await reopened(tmp_path / "spool.db")
    saved = SavedVisit("d;gate", visit("a"), 1_700_000_001.5)
    await spool.accept([creation("a")], visit=SavedVisit("d;gate", visit("a", track_id=1), 1.0))
    await spool.save_visit(saved)
    await spool.save_visit(SavedVisit("d;gate", visit("b"), 2.0))
    await spool.forget_visit("b")
    assert [await spool.next_sequence("d;gate") for _ in range(3)] == [1, 2, 3]
    assert await spool.next_sequence("e;gate") == 1
    await spool.stop()

    spool = await reopened(tmp_path / "spool.db")

    assert await spool.live_visits("d;gate") == [saved]
    assert await spool.live_visits("e;gate") == []
    assert await spool.next_sequence("d;gate") == 4
    await spool.stop()


async def test_a_visit_is_refreshed_only_where_it_was_kept_with_its_first_entries(spool: Spool) -> None:
    early, late = (SavedVisit("d;gate", visit("a", track_id=track), float(track)) for track in (1, 2))
    await spool.save_visit(early)
    assert await spool.live_visits("d;gate") == []  # kept, it would be a visit whose record nobody writes

    await spool.accept([creation("a")], visit=early)
    await spool.save_visit(late)
    assert await spool.live_visits("d;gate") == [late]

    await spool.forget_visit("a")
    await spool.save_visit(late)
    assert await spool.live_visits("d;gate") == []


async def test_a_visit_is_complete_from_the_end_of_its_run_on(spool: Spool) -> None:
    begun = SavedVisit("d;gate", visit("a"), 1.0, is_complete=False)
    await spool.accept([creation("a")], visit=begun)
    assert await spool.live_visits("d;gate") == [begun]

    await spool.save_visit(replace(begun, is_complete=True))
    await spool.save_visit(replace(begun, last_seen_at=2.0))  # where it is now: says nothing of its run
    await spool.accept([update("a")], visit=begun)

    assert await spool.live_visits("d;gate") == [replace(begun, is_complete=True)]


async def test_a_run_that_is_made_again_after_a_crash_is_the_last(spool: Spool) -> None:
    begun = SavedVisit("d;gate", visit("a"), 1.0, is_complete=False)
    for _ in range(2):  # the second one is killed as well
        await spool.accept([creation("a")], visit=begun)

    assert [one.is_complete for one in await spool.live_visits("d;gate")] == [True]


async def test_the_end_of_a_run_puts_no_old_place_over_a_newer_one(spool: Spool) -> None:
    begun = SavedVisit("d;gate", visit("a", track_id=1), 1.0, is_complete=False)
    await spool.accept([creation("a")], visit=begun)
    later = SavedVisit("d;gate", visit("a", track_id=2), 5.0, is_complete=False)
    await spool.save_visit(later)
    await spool.save_visit(replace(begun, is_complete=True))

    assert await spool.live_visits("d;gate") == [replace(later, is_complete=True)]


async def test_what_was_delivered_is_forgotten_although_others_never_pause_to_write(spool: Spool) -> None:
    await spool.accept([creation("a")])
    (queued,) = await spool.oldest(Sink.POSTGRESQL, max_entries=1, max_bytes=1)
    writing = True

    async def write(number: int) -> None:
        while writing:
            await spool.next_sequence(str(number))

    writers = [asyncio.ensure_future(write(number)) for number in range(50)]
    await asyncio.sleep(0.1)
    removed = await asyncio.wait_for(spool.remove([queued.seq]), 5)
    writing = False
    await asyncio.gather(*writers)

    assert removed == 1


async def test_a_value_that_sqlite_does_not_know_is_an_error_for_its_writer_alone(spool: Spool) -> None:
    async def bad() -> None:
        await spool.file.write(lambda connection: connection.execute("SELECT ?", (object(),)))

    results = await asyncio.wait_for(asyncio.gather(bad(), spool.accept([creation("a")]), return_exceptions=True), 5)

    assert [type(result) for result in results] == [ServiceError, type(None)]


async def test_a_lock_of_another_process_is_waited_for_once_and_not_by_each_writer(
    spool: Spool, tmp_path: Path
) -> None:
    await spool.file.write(lambda connection: connection.execute("PRAGMA busy_timeout = 200"))
    other = sqlite3.connect(tmp_path / "spool.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began_s = time.monotonic()

    results = await asyncio.gather(*(spool.accept([creation(str(n))]) for n in range(40)), return_exceptions=True)

    assert time.monotonic() - began_s < 3  # each by itself: 8 s
    assert {type(result) for result in results} == {ServiceError}
    other.execute("ROLLBACK")
    other.close()
    await spool.accept([creation("after")])
    assert [entry.key for entry in await waiting(spool)] == ["after:create"]


async def test_pictures_and_plates_are_for_the_workers_account_alone(tmp_path: Path) -> None:
    (tmp_path / "spool.db").touch(mode=0o644)  # as earlier versions made it
    spool = await reopened(tmp_path / "spool.db")
    await spool.accept([creation("a")])

    modes = {path.name: path.stat().st_mode & 0o077 for path in (tmp_path / "spool.db", tmp_path / "spool.db-wal")}
    assert modes == {"spool.db": 0, "spool.db-wal": 0}
    await spool.stop()


async def test_a_quota_below_what_waits_keeps_nobody_from_taking_things_out(tmp_path: Path) -> None:
    spool = await reopened(tmp_path / "spool.db")
    await spool.accept([publication(str(n), channel="c", message="m" * 1000, max_age_s=0) for n in range(50)])
    await spool.stop()

    spool = Spool(tmp_path / "spool.db", quota_bytes=10_000)
    await spool.start()

    assert await spool.drop_expired() == 50
    await spool.stop()


async def test_large_payloads_are_not_read_all_at_once(spool: Spool) -> None:
    await spool.accept([creation(str(number), text="x" * 10_000) for number in range(20)])

    assert 2 <= len(await spool.oldest(Sink.POSTGRESQL, max_entries=20, max_bytes=35_000)) <= 4


async def test_concurrent_sequences_have_no_gap_and_no_double(spool: Spool) -> None:
    numbers = await asyncio.gather(*(spool.next_sequence("d;gate") for _ in range(2_500)))

    assert sorted(numbers) == list(range(1, 2_501))


async def test_an_unreadable_entry_becomes_a_dead_letter_and_what_is_behind_comes(spool: Spool, tmp_path: Path) -> None:
    await spool.accept([creation("a"), creation("b"), creation("c"), creation("d")])
    with sqlite3.connect(tmp_path / "spool.db") as other:
        other.execute("UPDATE entries SET kind = 'telegram' WHERE key = 'a:create'")
        other.execute("UPDATE entries SET payload = '{' WHERE key = 'b:create'")
        other.execute("UPDATE entries SET payload = ? WHERE key = 'c:create'", (b'\xff\x00\x01"',))
    other.close()

    assert [entry.key for entry in await waiting(spool)] == ["d:create"]
    assert (await spool.backlog()).dead_letters == 3


@pytest.mark.parametrize("value", [2**64, "\ud800"])
async def test_a_value_that_json_cannot_hold_is_refused_at_the_door(spool: Spool, value: int | str) -> None:
    with pytest.raises(ServiceError, match="JSON"):
        await spool.accept([creation("a", field=value)])

    assert await waiting(spool) == []


async def test_one_bad_job_harms_no_other_in_its_group(spool: Spool) -> None:
    bad = SpoolEntry("\ud800", "v", 0.0, StoreImage("k", b"", 1))

    results = await asyncio.gather(
        *(spool.accept([creation(str(n))]) for n in range(20)),
        spool.accept([bad]),
        *(spool.accept([creation(str(n))]) for n in range(20, 40)),
        return_exceptions=True,
    )

    assert [type(result) for result in results if result is not None] == [ServiceError]
    assert len(await waiting(spool)) == 40


async def test_a_cancelled_caller_leaves_its_entry_accepted(spool: Spool) -> None:
    task = asyncio.ensure_future(spool.accept([creation("a")]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    await spool.accept([creation("b")])

    assert [entry.key for entry in await waiting(spool)] == ["a:create", "b:create"]


async def test_a_spool_that_was_stopped_refuses_clearly(tmp_path: Path) -> None:
    spool = await reopened(tmp_path / "spool.db")
    await spool.stop()

    with pytest.raises(ServiceError, match="not running"):
        await spool.accept([creation("a")])
    with pytest.raises(ServiceError, match="not running"):
        await spool.backlog()


async def test_a_spool_of_a_later_version_is_refused(tmp_path: Path) -> None:
    await (await reopened(tmp_path / "spool.db")).stop()
    with sqlite3.connect(tmp_path / "spool.db") as other:
        other.execute("PRAGMA user_version = 99")
    other.close()

    with pytest.raises(ServiceError, match="version 99"):
        await reopened(tmp_path / "spool.db")


async def test_a_failing_disk_is_a_clear_error_and_the_spool_goes_on_after_it(spool: Spool) -> None:
    await spool.accept([creation("a")])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
    try:
        with pytest.raises(ServiceError, match="disk"):
            await spool.accept([image("a", key="k", content=os.urandom(256 << 10))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)

    await spool.accept([creation("b")])

    assert [entry.key for entry in await waiting(spool)] == ["a:create", "b:create"]
    assert await waiting(spool, Sink.REDIS) == []


_ACCEPT_FOR_EVER = textwrap.dedent("""
    import asyncio, itertools, os, sys
    from pathlib import Path
    from detector_worker.core.outbox import CreateRecord, SpoolEntry, StoreImage
    from detector_worker.storage.spool.spool import Spool

    async def visits(spool, lane):
        for number in itertools.count():
            name = f"{sys.argv[2]}-{lane}-{number}"
            await spool.accept([
                SpoolEntry(f"{name}:create", name, 0.0, CreateRecord("cars", "id", {"id": name})),
                SpoolEntry(f"{name}:image", name, 0.0, StoreImage(name, os.urandom(2000), 60)),
            ])
            os.write(1, f"{name}\\n".encode())  # told only after it was acknowledged

    async def main():
        spool = Spool(Path(sys.argv[1]))
        await spool.start()
        await asyncio.gather(*(visits(spool, lane) for lane in range(20)))

    asyncio.run(main())
""")


def _names_acknowledged_until_killed(path: Path, prefix: str) -> list[str]:
    command = [sys.executable, "-c", _ACCEPT_FOR_EVER, str(path), prefix]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline().strip() for _ in range(200)]
        child.kill()
        return lines + child.stdout.read().split("\n")[:-1]


async def test_every_acknowledged_entry_survives_kill_9(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "spool.db", set[str]()
    for round_number in range(2):  # the second one opens what the first one left
        acknowledged.update(_names_acknowledged_until_killed(path, str(round_number)))

    spool = await reopened(path)
    creations = {entry.visit_id for entry in await waiting(spool) if isinstance(entry.delivery, CreateRecord)}
    images = {entry.visit_id for entry in await waiting(spool, Sink.REDIS)}
    await spool.stop()

    assert len(acknowledged) >= 400
    assert acknowledged <= creations
    assert creations == images  # a transaction is there as a whole or not at all
