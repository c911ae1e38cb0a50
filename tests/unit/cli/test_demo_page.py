"""The page over a real socket, before a worker that answers from memory."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from detector_worker.cli.demo.board import Board, RecordView, WorkerView
from detector_worker.cli.demo.page import Page, serving
from detector_worker.core.exceptions import ServiceError

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
SCRIPT = "<script>alert(1)</script>"


@dataclass
class Setting:
    """A page, and what stands behind it."""

    board: Board = field(default_factory=lambda: Board(["cam-1", "cam-2"]))
    worker_url: str | None = None
    pictures: dict[str, bytes] = field(default_factory=lambda: {ID: b"\xff\xd8picture"})
    url: str = ""
    asked: list[str] = field(default_factory=list)


@asynccontextmanager
async def worker(setting: Setting) -> AsyncIterator[None]:
    """Answer as the worker's HTTP side does."""

    async def image(request: web.Request) -> web.Response:
        setting.asked.append(str(request.rel_url))
        if request.match_info["camera_id"] == "cam-1":
            return web.Response(body=b"\xff\xd8frame", content_type="image/jpeg")
        return web.json_response({"detail": "No frame yet"}, status=503)

    app = web.Application()
    app.router.add_get("/camera/{camera_id}/image", image)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    setting.worker_url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield
    await runner.cleanup()


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    setting = Setting()

    async def record_image(record_id: str) -> bytes | None:
        return setting.pictures.get(record_id)

    page = Page(setting.board, worker_url=lambda: setting.worker_url, record_image=record_image)
    async with serving(page, port=0) as setting.url:
        yield setting


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def get(http: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, str, bytes]:
    async with http.get(url, headers=headers) as answer:
        return answer.status, answer.content_type, await answer.read()


async def events(answer: aiohttp.ClientResponse, count: int) -> list[tuple[str, dict[str, Any]]]:
    """Read so many events."""
    found = []
    async with asyncio.timeout(5):
        for _ in range(count):
            name = (await answer.content.readline()).decode().removeprefix("event: ").strip()
            data = json.loads((await answer.content.readline()).removeprefix(b"data: "))
            assert await answer.content.readline() == b"\n"
            found.append((name, data))
    return found


async def test_the_page_needs_nothing_from_elsewhere(setting: Setting, http: aiohttp.ClientSession) -> None:
    async with http.get(setting.url) as answer:
        html = await answer.text()

    assert answer.status == 200
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "://" not in html
    assert "innerHTML" not in html


async def test_a_new_page_gets_everything_at_once_and_then_what_comes(
    setting: Setting, http: aiohttp.ClientSession
) -> None:
    setting.board.set_worker(WorkerView("running", 42))
    setting.board.note_record(RecordView("id-1", "cam-1", "2026-01-31T09:26:53.589Z", SCRIPT, None, "AB 123", 20.5))
    async with http.get(f"{setting.url}events") as answer:
        before = await events(answer, 4)
        setting.board.set_worker(WorkerView("restarting", 42, 1, "died with code -9"))
        after = await events(answer, 1)

    assert answer.content_type == "text/event-stream"
    assert [name for name, _ in before] == ["worker", "camera", "camera", "record"]
    assert before[1][1] == {"camera_id": "cam-1", "state": "waiting", "detail": "", "records": 1}
    assert before[3][1]["brand"] == SCRIPT  # as text: the page never makes markup of data
    assert before[3][1]["latency_ms"] == 20.5
    assert after == [("worker", {"state": "restarting", "pid": 42, "restarts": 1, "detail": "died with code -9"})]


async def test_a_camera_is_shown_as_the_worker_sees_it(setting: Setting, http: aiohttp.ClientSession) -> None:
    async with worker(setting):
        there = await get(http, f"{setting.url}image/cam-1")
        not_yet = await get(http, f"{setting.url}image/cam-2")
        unknown = await get(http, f"{setting.url}image/cam-3")

    assert there == (200, "image/jpeg", b"\xff\xd8frame")
    assert not_yet[:2] == (503, "application/json")
    assert unknown[0] == 404
    assert setting.asked == ["/camera/cam-1/image?annotated=true", "/camera/cam-2/image?annotated=true"]


async def test_while_the_worker_is_down_that_is_what_the_page_is_told(
    setting: Setting, http: aiohttp.ClientSession
) -> None:
    known_to_be_down = await get(http, f"{setting.url}image/cam-1")
    async with worker(setting):
        pass
    just_died = await get(http, f"{setting.url}image/cam-1")

    for status, kind, body in (known_to_be_down, just_died):
        assert (status, kind) == (503, "application/json")
        assert "error" in json.loads(body)


async def test_a_records_picture_is_there_or_not_found(setting: Setting, http: aiohttp.ClientSession) -> None:
    assert await get(http, f"{setting.url}record/{ID}/image") == (200, "image/jpeg", b"\xff\xd8picture")
    for record_id in (ID.replace("0", "1"), "cam-1", "..%2F..%2Fetc", ID + ":frame"):
        assert (await get(http, f"{setting.url}record/{record_id}/image"))[0] == 404


async def test_who_comes_by_another_name_is_refused(setting: Setting, http: aiohttp.ClientSession) -> None:
    assert (await get(http, setting.url, Host="rebound.example"))[0] == 403
    assert (await get(http, setting.url, Host="localhost"))[0] == 200


async def test_a_busy_port_is_named(setting: Setting) -> None:
    port = int(setting.url.rstrip("/").rpartition(":")[2])
    page = Page(setting.board, worker_url=lambda: None, record_image=lambda _: asyncio.sleep(0, None))

    with pytest.raises(ServiceError, match=f"127.0.0.1:{port}.*--page-port"):
        async with serving(page, port=port):
            pass
