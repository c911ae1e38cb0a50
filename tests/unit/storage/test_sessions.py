import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.sessions import HandClock, new_sessions
from support.spooling import creation, image, visit

from detector_worker.core.entities import FieldValue, PipelineResult, SessionId
from detector_worker.core.exceptions import MessageProcessingError, ServiceError
from detector_worker.core.outbox import PatchRecord, RecordPlace, SavedVisit, SessionEntry, Sink, SpoolEntry
from detector_worker.core.singleton_managers import SessionStateManager
from detector_worker.storage.sessions import Sessions
from detector_worker.storage.spool.spool import Spool

TTL_S = 60.0


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path / "spool.sqlite", quota_bytes=1 << 20)
    await spool.start()
    yield spool
    await spool.stop()


@pytest.fixture
def sessions(spool: Spool, clock: HandClock) -> Sessions:
    return new_sessions(spool, ttl_s=TTL_S, clock=clock)


def entry(record_id: str, session_id: SessionId = "s", *, table: str | None = "cars") -> SessionEntry:
    place = None if table is None else RecordPlace(table, "record_id", record_id)
    return SessionEntry(session_id, "gate", record_id, place)


async def data_of(sessions: Sessions, session_id: SessionId = "s") -> Mapping[str, FieldValue] | None:
    session = await sessions.get(session_id)
    return None if session is None else session.data


async def after_a_crash(spool: Spool, clock: HandClock) -> tuple[Sessions, Mapping[str, SessionId]]:
    """What the next worker finds on the same disk."""
    later, displays = new_sessions(spool, ttl_s=TTL_S, clock=clock), SessionStateManager()
    await later.start(displays)
    return later, displays.snapshot()


async def patches(spool: Spool) -> list[SpoolEntry]:
    found = [queued.entry for queued in await spool.oldest(Sink.POSTGRESQL, max_entries=999, max_bytes=1 << 30)]
    return [one for one in found if isinstance(one.delivery, PatchRecord)]


async def test_sessions_and_displays_are_there_after_a_restart(
    sessions: Sessions, spool: Spool, clock: HandClock
) -> None:
    told: dict[str, SessionId] = {"a": "shift-7", "b": 7, "c": 2.5}
    for display_id, session_id in told.items():
        await sessions.set_display(display_id, session_id)
    await sessions.patch("shift-7", {"plate": "B-X 1", "deep": {"list": [1, None]}})

    later, displays = await after_a_crash(spool, clock)

    assert displays == told
    assert type(displays["b"]) is int
    assert await data_of(later, "shift-7") == {"plate": "B-X 1", "deep": {"list": [1, None]}}
    assert await data_of(later, 7) == {}
    assert await data_of(later, "unknown") is None


async def test_ids_that_read_alike_are_one_session_which_keeps_the_type_that_was_told(sessions: Sessions) -> None:
    await sessions.set_display("desk", 5)
    await sessions.patch("5", {"a": 1})

    found = await sessions.get(5)

    assert found is not None
    assert (found.session_id, type(found.session_id), found.data) == (5, int, {"a": 1})


async def test_a_session_that_its_display_has_left_takes_patches_for_its_time(
    sessions: Sessions, spool: Spool, clock: HandClock
) -> None:
    await sessions.set_display("desk", "s")
    await sessions.set_display("other", "t")
    clock.now_s += 1_000  # a display's current session does not expire
    assert await sessions.patch("s", {"a": 1}) == {"a": 1}
    clock.now_s += 1_000
    await sessions.set_display("desk", None)
    await sessions.set_display("other", "u")

    clock.now_s += TTL_S - 1

    assert await data_of(sessions, "t") == {}
    assert await sessions.patch("s", {"b": 2}) == {"a": 1, "b": 2}
    assert (await after_a_crash(spool, clock))[1] == {"other": "u"}
    clock.now_s += TTL_S
    assert await data_of(sessions, "t") is None
    with pytest.raises(MessageProcessingError, match="no such session") as refusal:
        await sessions.patch("s", {"c": 3})
    assert (refusal.value.code, refusal.value.field) == ("not_found", "sessionId")


async def test_a_session_that_has_expired_begins_anew(sessions: Sessions, clock: HandClock) -> None:
    await sessions.set_display("desk", "s")
    await sessions.patch("s", {"old": True})
    await sessions.set_display("desk", None)
    clock.now_s += TTL_S

    await sessions.set_display("desk", "s")

    assert await data_of(sessions) == {}


async def test_only_what_has_expired_is_pruned_from_the_disk(
    sessions: Sessions, spool: Spool, clock: HandClock
) -> None:
    await sessions.set_display("desk", "current")
    await sessions.accept([], session=entry("old", "old"))
    clock.now_s += TTL_S
    await sessions.accept([], session=entry("new", "new"))

    pruned = await sessions.prune()

    rows = await spool.file.read(lambda db: db.execute("SELECT session_id FROM sessions ORDER BY 1").fetchall())
    assert (pruned, rows) == (1, [("current",), ("new",)])
    assert await sessions.prune() == 0


async def test_a_record_and_its_session_come_to_disk_together_or_not_at_all(sessions: Sessions, spool: Spool) -> None:
    saved = SavedVisit("desk;gate", visit("a"), 1.0)
    with pytest.raises(ServiceError, match="full"):
        await sessions.accept([image("a", key="k", content=bytes(2 << 20))], visit=saved, session=entry("a"))
    assert await sessions.get("s") is None
    assert await sessions.caches.latest_detection("gate") is None

    await sessions.accept([creation("a")], visit=saved, session=entry("a"))

    found = await sessions.get("s")
    assert found is not None
    assert [record.place for record in found.records] == [RecordPlace("cars", "record_id", "a")]
    assert len(await spool.live_visits("desk;gate")) == 1


async def test_the_detection_is_cached_with_its_record_and_the_result_after_the_run(sessions: Sessions) -> None:
    await sessions.accept([], visit=SavedVisit("desk;gate", visit("a"), 1.0), session=entry("a"))
    result = PipelineResult("partial", (), {"b": {"brand": "x"}}, {"f": 1})
    await sessions.note_result("s", "a", result)

    latest: Any = await sessions.caches.latest_detection("gate")
    kept: Any = await sessions.caches.pipeline_result("s")
    found = await sessions.get("s")

    assert [one["class_name"] for one in latest] == ["car", "wheel"]
    assert (latest[0]["timestamp"], latest[0]["track_id"]) == (1_700_000_000.25, 7)
    assert (kept["status"], kept["fields"]) == ("partial", {"f": 1})
    assert found is not None
    assert found.records[0].status == "partial"


async def test_a_display_session_keeps_its_data_and_its_newest_records(sessions: Sessions) -> None:
    await sessions.set_display("desk", "s")
    await sessions.patch("s", {"keep": 1})
    for number in range(20):
        await sessions.accept([creation(str(number))], session=entry(str(number)))

    found = await sessions.get("s")

    assert found is not None
    assert found.data == {"keep": 1}
    assert [record.record_id for record in found.records] == [str(number) for number in range(4, 20)]


async def test_a_record_whose_row_is_made_later_gets_its_place(sessions: Sessions) -> None:
    await sessions.accept([], session=entry("a", table=None))
    await sessions.accept([creation("a")], session=entry("a"))
    await sessions.accept([], session=entry("a", table="other"))

    found = await sessions.get("s")

    assert found is not None
    assert [record.place for record in found.records] == [RecordPlace("cars", "record_id", "a")]


async def test_a_patch_reaches_every_row_after_it_was_made_and_never_its_key(sessions: Sessions, spool: Spool) -> None:
    for record_id in ("a", "b"):
        await sessions.accept([creation(record_id)], session=entry(record_id))
    await sessions.accept([], session=entry("no row", table=None))

    await sessions.patch("s", {"brand": "VW", "record_id": "mine", "gone": None})
    await sessions.patch("s", {"brand": "Audi"})
    await sessions.patch("s", {"record_id": "only"})

    found = await patches(spool)
    brands = [(one.visit_id, one.delivery.fields) for one in found if isinstance(one.delivery, PatchRecord)]
    first: dict[str, FieldValue] = {"brand": "VW", "gone": None}
    assert brands == [("a", first), ("b", first), ("a", {"brand": "Audi"}), ("b", {"brand": "Audi"})]
    assert [one.key.startswith(f"{one.visit_id}:patch:") for one in found] == [True] * 4
    assert len({one.key for one in found}) == 4
    assert found[0].delivery == PatchRecord("cars", "record_id", "a", first)
    assert await data_of(sessions) == {"brand": "Audi", "record_id": "only"}


async def test_a_patch_from_before_the_row_was_made_reaches_it_then(sessions: Sessions, spool: Spool) -> None:
    await sessions.accept([], session=entry("a", table=None))
    await sessions.patch("s", {"brand": "VW"})
    assert await patches(spool) == []

    await sessions.accept([creation("a")], session=entry("a"))
    await sessions.accept([creation("b")], session=entry("b"))  # came later: what was said before was not of it

    (late,) = await patches(spool)
    assert (late.visit_id, late.delivery) == ("a", PatchRecord("cars", "record_id", "a", {"brand": "VW"}))


async def test_patches_at_once_lose_nothing(sessions: Sessions, spool: Spool, clock: HandClock) -> None:
    await sessions.set_display("desk", "s")
    others = [sessions.accept([], session=entry(str(number))) for number in range(10)]

    replies = await asyncio.gather(*(sessions.patch("s", {f"k{number}": number}) for number in range(50)), *others)

    expected = {f"k{number}": number for number in range(50)}
    assert await data_of(sessions) == expected
    later = (await after_a_crash(spool, clock))[0]
    found = await later.get("s")
    assert found is not None
    assert (found.data, len(found.records)) == (expected, 10)
    assert replies[49] == expected


async def test_a_patch_whose_client_has_gone_is_done_whole(sessions: Sessions, spool: Spool, clock: HandClock) -> None:
    await sessions.set_display("desk", "s")
    patch = asyncio.ensure_future(sessions.patch("s", {"a": 1}))
    while not sessions._writing:  # noqa: ASYNC110 - the moment in which it is on its way
        await asyncio.sleep(0)
    patch.cancel()
    await asyncio.gather(patch, return_exceptions=True)
    await sessions.patch("s", {"b": 2})

    assert await data_of(sessions) == await data_of((await after_a_crash(spool, clock))[0]) == {"a": 1, "b": 2}


async def test_a_read_that_began_before_a_change_does_not_bring_the_old_state_back(
    sessions: Sessions, spool: Spool, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sessions.set_display("desk", "s")
    later = (await after_a_crash(spool, clock))[0]
    read, is_read, may_answer = spool.file.read, asyncio.Event(), asyncio.Event()

    async def answer_late(query: Any) -> Any:
        answer = await read(query)
        is_read.set()
        await may_answer.wait()
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(spool.file, "read", answer_late)
        reading = asyncio.ensure_future(later.get("s"))
        await is_read.wait()
        await later.accept([creation("a")], session=entry("a"))
        may_answer.set()
        old = await reading

    now = await later.get("s")
    assert old is not None
    assert now is not None
    assert (len(old.records), len(now.records)) == (0, 1)


async def test_a_patch_that_the_disk_refuses_changes_nothing(sessions: Sessions, spool: Spool) -> None:
    await sessions.accept([creation("a")], session=entry("a"))
    await spool.stop()

    with pytest.raises(ServiceError):
        await sessions.patch("s", {"a": 1})

    assert await data_of(sessions) == {}


async def test_a_session_is_found_on_disk_when_the_cache_has_no_room_for_it(spool: Spool, clock: HandClock) -> None:
    sessions = new_sessions(spool, clock=clock, cached_entries=1)
    for name in "abc":
        await sessions.accept([], session=entry(name, name))
        await sessions.patch(name, {"name": name})

    assert [await data_of(sessions, name) for name in "abc"] == [{"name": name} for name in "abc"]
    stats = sessions.caches.stats()["sessions"]
    assert stats.entries == 1
    assert stats.evictions >= 4
    before = stats.hits
    await sessions.get("c")
    assert sessions.caches.stats()["sessions"].hits == before + 1


async def test_a_session_holds_so_much_and_no_more(sessions: Sessions) -> None:
    await sessions.set_display("desk", "s")
    for number in range(4):
        await sessions.patch("s", {str(number): "x" * 15_000})

    with pytest.raises(MessageProcessingError, match="at most") as refusal:
        await sessions.patch("s", {"more": "x" * 15_000})

    assert (refusal.value.code, refusal.value.field) == ("limit_exceeded", "data")
    assert "more" not in await sessions.patch("s", {"0": None})
    assert "more" in await sessions.patch("s", {"more": "x" * 15_000})


async def test_a_session_that_cannot_be_read_is_as_good_as_none(
    sessions: Sessions, spool: Spool, clock: HandClock
) -> None:
    def damage(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO sessions VALUES ('s', ?, ?)", (b'{"session_id": "s"}', clock.now_s))

    await spool.file.write(damage)

    assert await sessions.get("s") is None
    await sessions.accept([], session=replace(entry("a"), session_id="s"))
    assert await data_of(sessions) == {}
