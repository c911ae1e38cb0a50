import asyncio
import socket
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from aiohttp import web

from detector_worker.core.addresses import Address
from detector_worker.core.clock import SystemClock
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.streams.snapshot_reader import HTTPSnapshotReader

_RED = np.full((48, 64, 3), (0, 0, 255), np.uint8)


def _encoded(kind: str) -> bytes:
    return bytes(cv2.imencode(kind, _RED)[1])


def _png_that_claims(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


@dataclass
class _Camera:
    """A camera over HTTP; ``answer`` is what it does with a request."""

    answer: Callable[[web.Request], Awaitable[web.StreamResponse]]
    port: int = 0
    asked: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        return await self.answer(request)


@pytest.fixture
async def camera() -> AsyncIterator[_Camera]:
    async def picture(_: web.Request) -> web.Response:
        return web.Response(body=_encoded(".jpg"))

    camera = _Camera(picture)
    app = web.Application()
    app.router.add_get("/{tail:.*}", camera.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert isinstance(site._server, asyncio.Server)
    camera.port = site._server.sockets[0].getsockname()[1]
    yield camera
    await runner.cleanup()


def _reader(port: int, *, interval_s: float = 1.0, stopping: threading.Event | None = None) -> HTTPSnapshotReader:
    return HTTPSnapshotReader(
        Address.parse(f"http://viewer:canary-password@127.0.0.1:{port}/shot?token=canary-token", frozenset({"http"})),
        "gate",
        stopping or threading.Event(),
        clock=SystemClock(),
        interval_s=interval_s,
        timeout_s=0.5,
    )


async def _read(port: int) -> Frame | None:
    def work() -> Frame | None:
        reader = _reader(port)
        try:
            reader.connect()
            return reader.read_frame()
        finally:
            reader.close()

    return await asyncio.to_thread(work)


async def _error_of(port: int) -> StreamError:
    with pytest.raises(StreamError) as caught:
        await _read(port)
    return caught.value


@pytest.mark.parametrize("kind", [".jpg", ".png"])
async def test_jpeg_and_png_are_decoded_to_bgr(camera: _Camera, kind: str) -> None:
    async def picture(_: web.Request) -> web.Response:
        return web.Response(body=_encoded(kind))

    camera.answer = picture
    frame = await _read(camera.port)

    assert frame is not None
    assert frame.wh == (64, 48)
    assert np.abs(frame.bgr().astype(int) - _RED).max() < 8


async def test_user_and_password_are_sent(camera: _Camera) -> None:
    seen: list[str | None] = []

    async def picture(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=_encoded(".jpg"))

    camera.answer = picture
    await _read(camera.port)

    assert str(seen[0]).startswith("Basic ")


class _ManualTime(threading.Event):
    """A clock that only waiting and the test move on."""

    now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def utc_s(self) -> float:
        return self.now_s

    def wait(self, timeout: float | None = None) -> bool:
        self.now_s += timeout or 0
        return False


def _due_times(fetch_times_s: list[float]) -> list[float]:
    manual = _ManualTime()
    address = Address.parse("http://camera/shot", frozenset({"http"}))
    reader = HTTPSnapshotReader(address, "gate", manual, clock=manual, interval_s=1.0)
    due_s = []
    for fetch_s in fetch_times_s:
        reader.schedule_next()
        due_s.append(manual.now_s - 100)
        manual.now_s += fetch_s
    return due_s


def test_the_pace_does_not_drift() -> None:
    assert _due_times([0.3, 0.7, 0.1, 0.9, 0.2]) == pytest.approx([0, 1, 2, 3, 4])


def test_a_late_picture_starts_a_new_pace_without_catching_up() -> None:
    assert _due_times([0.2, 3.5, 0.2, 0.2]) == pytest.approx([0, 1, 4.5, 5.5])


@pytest.mark.parametrize(
    ("status", "error_class"), [(401, "authentication"), (403, "authentication"), (404, "not_found"), (503, "refused")]
)
async def test_a_status_has_its_class(camera: _Camera, status: int, error_class: str) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=status)

    camera.answer = refuse

    assert (await _error_of(camera.port)).error_class == error_class


async def test_a_redirect_is_not_followed(camera: _Camera) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": f"http://127.0.0.1:{camera.port}/other"})

    camera.answer = elsewhere
    error = await _error_of(camera.port)

    assert "302" in error.what
    assert camera.asked == 1


async def test_a_camera_that_does_not_answer_is_a_timeout(camera: _Camera) -> None:
    async def never(_: web.Request) -> web.Response:
        await asyncio.sleep(3)
        return web.Response()

    camera.answer = never

    assert (await _error_of(camera.port)).error_class == "timeout"


async def test_a_closed_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    assert (await _error_of(port)).error_class == "refused"


@pytest.mark.parametrize(
    ("body", "error_class"),
    [
        (b"<html>Login</html>", "codec"),
        (b"", "codec"),
        (_encoded(".jpg")[:200], "corrupt"),
        (_encoded(".png")[:-40], "corrupt"),
        (_png_that_claims(10_000, 10_000), "corrupt"),
        (_png_that_claims(0, 10), "corrupt"),
    ],
)
async def test_what_is_no_sound_picture_is_refused(camera: _Camera, body: bytes, error_class: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body)

    camera.answer = answer

    assert (await _error_of(camera.port)).error_class == error_class


async def test_an_endless_answer_is_cut_off(camera: _Camera) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(2**20))

    camera.answer = endless
    error = await _error_of(camera.port)

    assert error.error_class == "corrupt"


async def test_errors_do_not_show_the_password(camera: _Camera) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=401)

    camera.answer = refuse

    assert "canary" not in repr((await _error_of(camera.port)).__dict__)


def test_waiting_for_the_next_picture_ends_when_it_is_told_to_stop() -> None:
    stopping = threading.Event()
    reader = _reader(1, interval_s=60, stopping=stopping)
    assert reader.schedule_next()
    threading.Timer(0.1, stopping.set).start()

    assert not reader.schedule_next()
