"""Sessions as clients set, change and see them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.serving import Settings, Worker, ask, error_of, hear, result, serving
from support.sessions import new_sessions
from support.spooling import creation, visit
from websockets.asyncio.client import ClientConnection, connect

from detector_worker.core.outbox import PatchRecord, RecordPlace, SavedVisit, SessionEntry, Sink
from detector_worker.core.singleton_managers import SessionStateManager
from detector_worker.storage.spool.spool import Spool


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path / "spool.sqlite")
    await spool.start()
    yield spool
    await spool.stop()


@pytest.fixture
async def worker(spool: Spool) -> AsyncIterator[Worker]:
    async with serving(Settings(spool=spool)) as running:
        yield running


@pytest.fixture
async def client(worker: Worker) -> AsyncIterator[ClientConnection]:
    async with connect(worker.ws_url) as connected:
        yield connected


async def get(worker: Worker, path: str, **headers: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http, http.get(worker.http_url + path, headers=headers) as answer:
        return answer.status, await answer.json()


async def displays_on_disk(spool: Spool) -> dict[str, object]:
    found = SessionStateManager()
    await new_sessions(spool).start(found)
    return dict(found.snapshot())


async def test_a_display_gets_its_session_and_loses_it(worker: Worker, client: ClientConnection, spool: Spool) -> None:
    for session in ("S-1", 17, 2.5):
        reply = await ask(client, "setSessionId", {"displayIdentifier": "desk", "sessionId": session})

        assert reply == {"type": "setSessionIdAck", "status": "success"}
        assert worker.engine.sessions == {"desk": session} == await displays_on_disk(spool)

    await ask(client, "setSessionId", {"subscriptionIdentifier": "desk;gate", "sessionId": None})
    assert worker.engine.sessions == {"desk": None}
    assert await displays_on_disk(spool) == {}


async def test_a_session_that_cannot_be_kept_is_not_acknowledged(
    worker: Worker, client: ClientConnection, spool: Spool
) -> None:
    await spool.stop()

    reply = await ask(client, "setSessionId", {"displayIdentifier": "desk", "sessionId": 1})

    assert error_of(reply) == ("internal", None)
    assert worker.engine.sessions == {}


async def test_a_patch_is_merged_one_level_deep_and_null_deletes(client: ClientConnection) -> None:
    await ask(client, "setSessionId", {"displayIdentifier": "desk", "sessionId": 17})
    await ask(client, "patchSession", {"sessionId": "17", "data": {"a": 1, "b": {"x": 1}, "c": "text"}})

    patch = {"sessionId": 17, "data": {"a": None, "b": {"y": [1.5, True, None]}}}
    reply = await ask(client, "patchSession", patch, requestId="r")

    assert reply == {
        "type": "patchSessionAck", "status": "success", "requestId": "r",
        "payload": {"session": {"b": {"y": [1.5, True, None]}, "c": "text"}},
    }  # fmt: skip
    unknown = await ask(client, "patchSession", {"sessionId": 18, "data": {}})
    assert (unknown["type"], error_of(unknown)) == ("patchSessionAck", ("not_found", "sessionId"))


OUT_OF_BOUNDS: tuple[tuple[dict[str, object], str], ...] = (
    ({"data": {}}, "sessionId"),
    ({"sessionId": None, "data": {}}, "sessionId"),
    ({"sessionId": True, "data": {}}, "sessionId"),
    ({"sessionId": 17}, "data"),
    ({"sessionId": 17, "data": None}, "data"),
    ({"sessionId": 17, "data": [1]}, "data"),
    ({"sessionId": 17, "data": {f"k{number}": 1 for number in range(101)}}, "data"),
    ({"sessionId": 17, "data": {"": 1}}, "data"),
    ({"sessionId": 17, "data": {"k" * 201: 1}}, "data"),
    ({"sessionId": 17, "data": {"a\nb": 1}}, "data"),
    ({"sessionId": 17, "data": {"a": "x" * 16_400}}, "data"),
    ({"sessionId": 17, "data": {"a": [[[[[[[[1]]]]]]]]}}, "data"),
    ({"sessionId": 17, "data": {"a": {"b": ["no \0"]}}}, "data"),
)


async def test_a_patch_that_is_out_of_bounds_changes_nothing(worker: Worker, client: ClientConnection) -> None:
    await ask(client, "setSessionId", {"displayIdentifier": "desk", "sessionId": 17})

    for payload, field in OUT_OF_BOUNDS:
        assert error_of(await ask(client, "patchSession", payload)) == ("invalid_field", field), payload

        found = await worker.sessions.get(17)
        assert found is not None
        assert found.data == {}, payload


async def test_a_patch_of_the_greatest_depth_is_taken(client: ClientConnection) -> None:
    await ask(client, "setSessionId", {"displayIdentifier": "desk", "sessionId": 17})
    data = {"a": [[[[[[[1]]]]]]]}

    reply = await ask(client, "patchSession", {"sessionId": 17, "data": data})

    assert reply["payload"] == {"session": data}


async def test_whoever_asks_sees_a_session_with_its_records_and_its_latest_result(
    worker: Worker, client: ClientConnection, spool: Spool
) -> None:
    await ask(client, "setSessionId", {"displayIdentifier": "desk", "sessionId": "a/17"})
    entry = SessionEntry("a/17", "gate", "0198", RecordPlace("cars", "record_id", "0198"))
    await worker.sessions.accept([creation("0198")], visit=SavedVisit("desk;gate", visit("0198"), 1.0), session=entry)
    await ask(client, "patchSession", {"sessionId": "a/17", "data": {"plate": "B-X 1"}})
    status, before = await get(worker, "/sessions/a%2F17")
    await worker.handler.broadcast_detection_result(result(session_id="a/17", record_id="0198"))

    after = (await get(worker, "/sessions/a%2F17"))[1]

    assert (status, before["data"], before["result"]) == (200, {"plate": "B-X 1"}, None)
    (record,) = after["records"]
    assert record == {
        "recordId": "0198", "cameraId": "gate", "table": "cars", "keyField": "record_id", "keyValue": "0198",
        "status": "completed",
    }  # fmt: skip
    assert after["sessionId"] == "a/17"
    assert after["result"]["branches"] == {"colour": {"colour": "red", "confidence": 0.9}}
    assert after["result"]["detections"][0]["boundingBox"] == {"x1": 10, "y1": 20, "x2": 210, "y2": 180}
    waiting = await spool.oldest(Sink.POSTGRESQL, max_entries=9, max_bytes=1 << 20)
    assert waiting[-1].entry.delivery == PatchRecord("cars", "record_id", "0198", {"plate": "B-X 1"})
    assert (await get(worker, "/sessions/unknown"))[0] == 404


async def test_whoever_asks_sees_what_made_the_latest_visit_stable(worker: Worker) -> None:
    entry = SessionEntry("0198", "yard/1", "0198", None)
    await worker.sessions.accept([], visit=SavedVisit("desk;yard/1", visit("0198"), 1.0), session=entry)

    status, found = await get(worker, "/camera/yard%2F1/detection")

    assert (status, found["cameraId"], found["timestamp"]) == (200, "yard/1", "2023-11-14T22:13:20.250Z")
    assert [one["className"] for one in found["detections"]] == ["car", "wheel"]
    assert found["detections"][0]["boundingBox"] == {"x1": 1, "y1": 2, "x2": 30, "y2": 40}
    assert (await get(worker, "/camera/nowhere/detection"))[0] == 404


async def test_sessions_and_detections_need_the_token() -> None:
    async with serving(Settings(tokens=("Kanarienvogel",))) as worker:
        for path in ("/sessions/17", "/camera/gate/detection"):
            assert (await get(worker, path))[0] == 401
        assert (await get(worker, "/camera/gate/detection", Authorization="Bearer Kanarienvogel"))[0] == 404
        # Nothing is started there to look on: nobody is told that the session does not exist.
        assert (await get(worker, "/sessions/17", Authorization="Bearer Kanarienvogel"))[0] == 503


async def test_a_result_is_told_although_its_session_cannot_be_kept(worker: Worker, spool: Spool) -> None:
    async with connect(worker.ws_url) as client:
        (connection,) = worker.connections
        worker.connections.add_subscription(connection, "desk;gate", live=False)
        await spool.stop()

        worker.handler.on_result(result())

        assert (await hear(client))["payload"]["sequence"] == 1


async def test_the_caches_are_figures(worker: Worker) -> None:
    await worker.sessions.set_display("desk", "s")
    await get(worker, "/sessions/s")
    await get(worker, "/sessions/unknown")

    async with aiohttp.ClientSession() as http, http.get(worker.http_url + "/metrics") as answer:
        text = await answer.text()

    assert 'detector_worker_cache_entries{cache="sessions"} 1.0' in text
    assert 'detector_worker_cache_bytes{cache="results"} 0.0' in text
    assert 'detector_worker_cache_events_total{cache="sessions",event="hit"} 1.0' in text
    assert 'detector_worker_cache_events_total{cache="sessions",event="miss"} 1.0' in text
