import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.spooling import creation, image, publication, update

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import EnsureTables, Sink, SpoolEntry
from detector_worker.storage.spool.spool import Spool

QUOTA = 200_000
PICTURE = bytes(10_000)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path / "spool.db", quota_bytes=QUOTA)
    await spool.start()
    yield spool
    await spool.stop()


async def keys(spool: Spool, sink: Sink) -> list[str]:
    return [one.entry.key for one in await spool.oldest(sink, max_entries=10_000, max_bytes=1 << 30)]


async def test_a_full_spool_drops_its_oldest_pictures_and_no_record(spool: Spool) -> None:
    for number in range(40):
        await spool.accept([creation(f"v{number}"), image(f"v{number}", key=f"k{number}", content=PICTURE)])

    backlog = await spool.backlog()
    pictures = await keys(spool, Sink.REDIS)
    assert backlog.size_bytes <= QUOTA
    assert await keys(spool, Sink.POSTGRESQL) == [f"v{number}:create" for number in range(40)]
    assert pictures == [f"v{number}:image k{number}" for number in range(40 - len(pictures), 40)]  # the newest
    assert len(pictures) > 10
    assert backlog.lost == {"dropped_pictures": 40 - len(pictures)}


async def test_without_pictures_the_oldest_visits_go_as_a_whole_and_declarations_stay(spool: Spool) -> None:
    tables = SpoolEntry("tables:1", "tables:1", 0.0, EnsureTables({"cars": {"record_id": "uuid"}}))
    await spool.accept([tables])
    await spool.accept([creation(f"v{number}") for number in range(100)])
    for number in range(100):
        await spool.accept([update(f"v{number}", text="x" * 2_000)])
    await spool.accept([creation("last", text="x" * 20_000)])

    left, backlog = await keys(spool, Sink.POSTGRESQL), await spool.backlog()
    created = {key.partition(":")[0] for key in left if key.endswith(":create")}
    updated = {key.partition(":")[0] for key in left if key.endswith(":update")}
    assert left[0] == "tables:1"
    assert "last" in created
    assert created - {"last"} == updated  # no update waits for a record that was dropped
    assert f"v{100 - len(updated)}" in updated
    assert backlog.size_bytes <= QUOTA
    assert backlog.lost["dropped_records"] == 202 - len(left)


async def test_a_visits_message_and_other_visits_with_a_like_name_stay_when_its_records_go(spool: Spool) -> None:
    await spool.accept([creation("v1", text="x" * 150_000), publication("v1", channel="c", message="m")])
    await spool.accept([creation("v10")])

    await spool.accept([creation("last", text="x" * 60_000)])

    assert await keys(spool, Sink.POSTGRESQL) == ["v10:create", "last:create"]
    assert await keys(spool, Sink.REDIS) == ["v1:publish m"]


async def test_what_is_larger_than_the_quota_is_refused_and_nothing_is_dropped_for_it(spool: Spool) -> None:
    await spool.accept([creation("a"), image("a", key="k", content=PICTURE)])

    with pytest.raises(ServiceError, match=r"full.*spool\.quota_mb"):
        await spool.accept([image("b", key="l", content=bytes(QUOTA))])

    backlog = await spool.backlog()
    assert await keys(spool, Sink.POSTGRESQL) + await keys(spool, Sink.REDIS) == ["a:create", "a:image k"]
    assert (backlog.lost, backlog.accepted, backlog.refused) == ({}, 2, 1)


async def test_dead_letters_take_room_too_and_go_with_the_oldest(spool: Spool) -> None:
    await spool.accept([creation("a", text="x" * 100_000)])
    (queued,) = await spool.oldest(Sink.POSTGRESQL, max_entries=1, max_bytes=1)
    await spool.bury(queued.seq, "no such table", attempts=1)
    assert (await spool.backlog()).size_bytes > 100_000

    await spool.accept([creation("b", text="x" * 150_000)])

    assert (await spool.backlog()).dead_letters == 0
    assert (await spool.backlog()).lost == {"dropped_records": 1}


async def test_counts_of_what_was_lost_outlive_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        spool = Spool(tmp_path / "spool.db", quota_bytes=20_000)
        await spool.start()
        await spool.accept([image("a", key="k", content=PICTURE), image("b", key="l", content=b"")])
        await spool.accept([image("c", key="m", content=PICTURE)])
        await spool.remove([one.seq for one in await spool.oldest(Sink.REDIS, max_entries=9, max_bytes=1 << 20)])
        await spool.stop()

    spool = Spool(tmp_path / "spool.db")
    await spool.start()
    assert (await spool.backlog()).lost == {"dropped_pictures": 2}
    await spool.stop()


async def test_the_ballast_takes_its_room_on_the_disk(spool: Spool, tmp_path: Path) -> None:
    ballast = tmp_path / "spool.db.ballast"

    assert ballast.stat().st_blocks * 512 >= ballast.stat().st_size > 1_000_000


async def test_what_is_dropped_while_a_drainer_reads_does_not_trouble_it(spool: Spool) -> None:
    async def accept() -> None:
        for number in range(300):
            await spool.accept([image(f"v{number}", key=f"k{number}", content=PICTURE)])

    accepting = asyncio.ensure_future(accept())
    while not accepting.done():
        assert len(await keys(spool, Sink.REDIS)) <= QUOTA / len(PICTURE)
    await accepting

    assert (await spool.backlog()).lost["dropped_pictures"] > 200
