import logging
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.spooling import creation, image, publication, update, visit

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import CreateRecord, SavedVisit, Sink
from detector_worker.storage.spool.schema import _STEPS
from detector_worker.storage.spool.spool import Spool

VISITS = 300


async def opened(path: Path) -> Spool:
    spool = Spool(path)
    await spool.start()
    return spool


async def fill(path: Path) -> None:
    spool = await opened(path)
    for number in range(VISITS):
        name = f"v{number}"
        entries = [creation(name, text="x" * 400), image(name, key=name, content=bytes([number % 256]) * 6_000)]
        await spool.accept(entries, visit=SavedVisit("d;gate", visit(name), 1.0))
    assert await spool.next_sequence("d;gate") == 1
    await spool.stop()


async def creations(spool: Spool) -> set[str]:
    queued = await spool.oldest(Sink.POSTGRESQL, max_entries=10_000, max_bytes=1 << 30)
    return {one.entry.visit_id for one in queued if isinstance(one.entry.delivery, CreateRecord)}


def aside_of(path: Path) -> Path:
    (aside,) = path.parent.glob(f"{path.name}.damaged-*")
    return aside


def integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


def root_page(path: Path, name: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        return int(row[0])


def leaves(path: Path) -> list[int]:
    """Return the pages that hold rows of tables."""
    content = path.read_bytes()
    return [page for page in range(2, len(content) // 4096 + 1) if content[(page - 1) * 4096] == 13]


def overwrite(path: Path, pages: list[int]) -> None:
    content = bytearray(path.read_bytes())
    for page in pages:
        content[(page - 1) * 4096 : page * 4096] = random.Random(page).randbytes(4096)
    path.write_bytes(content)


async def test_of_a_damaged_file_all_that_can_be_read_is_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spool.db"
    await fill(path)
    overwrite(path, [40, 41])  # somewhere in the middle of the entries

    with caplog.at_level(logging.ERROR):
        spool = await opened(path)

    backlog, left = await spool.backlog(), await creations(spool)
    assert integrity(path) == "ok"
    assert VISITS - 60 < len(left) < VISITS
    assert {visit.visit.record_id for visit in await spool.live_visits("d;gate")} == {f"v{n}" for n in range(VISITS)}
    assert await spool.next_sequence("d;gate") == 2
    assert backlog.sinks[Sink.POSTGRESQL].entries == len(left)  # and the totals are theirs
    aside = aside_of(path)
    assert aside.name in caplog.text
    assert str(backlog.entries) in caplog.text
    await spool.stop()
    await (await opened(path)).stop()
    assert aside_of(path) == aside  # what was mended stays mended


async def test_a_broken_index_loses_no_entry(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    await fill(path)
    overwrite(path, [root_page(path, "waiting_entries")])

    spool = await opened(path)

    assert await creations(spool) == {f"v{number}" for number in range(VISITS)}
    assert await spool.oldest(Sink.REDIS, max_entries=1, max_bytes=1)
    await spool.stop()


async def test_entries_behind_a_broken_page_are_found_by_way_of_an_index(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    await fill(path)
    pages = leaves(path)
    overwrite(path, pages[len(pages) // 4 :: len(pages) // 4])  # where the table's own order ends, from either end

    spool = await opened(path)

    assert len(await creations(spool)) > 0.8 * VISITS
    await spool.stop()


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\x00" + bytes(200)])
async def test_what_is_no_spool_at_all_is_set_aside_and_a_new_one_begun(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spool.db"
    path.write_bytes(content)

    spool = await opened(path)
    await spool.accept([creation("a")])

    assert await creations(spool) == {"a"}
    assert aside_of(path).read_bytes() == content
    await spool.stop()


@pytest.mark.parametrize("damage", ["cut in the middle", "no header", "header of noise"])
async def test_a_file_that_is_cut_off_or_lacks_its_header_is_read_all_the_same(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "spool.db"
    await fill(path)
    content = path.read_bytes()
    match damage:
        case "cut in the middle":
            path.write_bytes(content[: len(content) // 2])
        case "no header":
            path.write_bytes(bytes(100) + content[100:])
        case _:
            path.write_bytes(random.Random(1).randbytes(100) + content[100:])

    spool = await opened(path)

    assert len(await creations(spool)) >= (VISITS if damage != "cut in the middle" else VISITS / 3)
    assert integrity(path) == "ok"
    assert not any(path.with_name(path.name + end).exists() for end in (".patched", ".recovering"))
    await spool.stop()


async def test_a_recovery_that_was_interrupted_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    await fill(path)
    overwrite(path, [40])
    (tmp_path / "spool.db.recovering").write_bytes(b"half of it")

    spool = await opened(path)

    assert len(await creations(spool)) > VISITS - 60
    assert not (tmp_path / "spool.db.recovering").exists()
    await spool.stop()


async def test_a_file_that_may_not_be_read_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    path.mkdir()

    with pytest.raises(ServiceError, match=r"spool\.db"):
        await opened(path)

    assert path.is_dir()


async def test_a_spool_of_the_version_before_keeps_all_that_waits(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(_STEPS[2])
        connection.execute("PRAGMA user_version = 2")
    spool = await opened(tmp_path / "new.db")
    entries = [creation("a", brand="x"), update("a", brand="y"), image("a", key="k")]
    await spool.accept([*entries, publication("a", channel="c", message="m")])
    await spool.stop()
    columns = "key, sink, visit_id, kind, payload, picture, size_bytes, created_at, dead_reason"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("ATTACH ? AS new", (str(tmp_path / "new.db"),))
        connection.execute(f"INSERT INTO entries ({columns}) SELECT {columns} FROM new.entries")  # noqa: S608

    spool = await opened(path)

    backlog = await spool.backlog()
    queued = await spool.oldest(Sink.POSTGRESQL, max_entries=9, max_bytes=1 << 20)
    assert [one.entry for one in queued] == entries[:2]
    assert (backlog.entries, backlog.pictures, backlog.dead_letters) == (4, 1, 0)
    await spool.remove([one.seq for one in queued])
    assert (await spool.backlog()).entries == 2
    await spool.stop()
