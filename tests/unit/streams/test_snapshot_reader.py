import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from aiohttp import web
from support.http_cameras import Answer, abort_soon, encoded, http_camera, new_reader, opened, raw_camera, read

from detector_worker.core.exceptions import StreamError
from detector_worker.streams.snapshot_reader import HTTPSnapshotReader, Pace

_JPEG = encoded()
_DAMAGED = _JPEG[:200]


def _answers(*answers: bytes | web.Response | Callable[[], web.Response]) -> Answer:
    """One after the other; the last again and again. A response can be sent once only."""
    left = list(answers)

    async def answer(_: web.Request) -> web.StreamResponse:
        one = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(one, bytes):
            return web.Response(body=one)
        return one if isinstance(one, web.Response) else one()

    return answer


async def _error_of(reader: HTTPSnapshotReader) -> StreamError:
    with pytest.raises(StreamError) as caught:
        await read(reader)
    return caught.value


def _due_times(fetch_times_s: list[float]) -> list[float]:
    pace, now_s, due_s = Pace(1.0), 100.0, []
    for fetch_s in fetch_times_s:
        now_s = pace.next_due_s(now_s)
        due_s.append(now_s - 100)
        now_s += fetch_s
    return due_s


def test_the_pace_does_not_drift() -> None:
    assert _due_times([0.3, 0.7, 0.1, 0.9, 0.2]) == pytest.approx([0, 1, 2, 3, 4])


def test_a_late_picture_starts_a_new_pace_without_catching_up() -> None:
    assert _due_times([0.2, 3.5, 0.2, 0.2]) == pytest.approx([0, 1, 4.5, 5.5])


async def test_pictures_come_at_the_pace_that_was_asked_for() -> None:
    async with http_camera(_answers(*(encoded(grey=grey) for grey in (10, 60, 110, 160)))) as camera:
        frames = await read(new_reader(camera.port, interval_s=0.2), 4)

    assert np.diff([frame.time_s for frame in frames]) == pytest.approx(0.2, abs=0.1)
    assert frames[-1].time_s - frames[0].time_s >= 0.5
    assert [round(float(frame.bgr().mean()), -1) for frame in frames] == [10, 60, 110, 160]


async def test_all_pictures_come_over_one_connection() -> None:
    async with http_camera(_answers(*(encoded(grey=grey) for grey in (10, 60, 110)))) as camera:
        await read(new_reader(camera.port), 3)

    assert len(camera.requests) == 3
    assert len(camera.connections) == 1


async def test_a_camera_that_closes_after_each_answer_is_read_all_the_same() -> None:
    def closing(grey: int) -> web.Response:
        response = web.Response(body=encoded(grey=grey))
        response.force_close()
        return response

    async with http_camera(_answers(closing(10), closing(60), closing(110))) as camera:
        assert len(await read(new_reader(camera.port), 3)) == 3


async def test_an_identical_picture_makes_no_frame_but_shows_that_the_camera_lives() -> None:
    async with http_camera(_answers(_JPEG, _JPEG, _JPEG, encoded(grey=200))) as camera:
        reader = new_reader(camera.port)
        before_s = reader.alive_s
        frames = await read(reader, 2)

    assert len(camera.requests) == 4
    assert [frame.bgr().mean() > 100 for frame in frames] == [False, True]
    assert before_s is None
    assert reader.alive_s is not None
    assert frames[0].time_s < reader.alive_s < frames[1].time_s


@pytest.mark.parametrize(
    ("header", "value", "condition"),
    [("ETag", '"a1"', "If-None-Match"), ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT", "If-Modified-Since")],
)
async def test_a_picture_is_asked_for_only_where_it_has_changed(header: str, value: str, condition: str) -> None:
    def unchanged() -> web.Response:
        return web.Response(status=304)

    first = web.Response(body=_JPEG, headers={header: value})
    async with http_camera(_answers(first, unchanged, unchanged, encoded(grey=200))) as camera:
        reader = new_reader(camera.port)
        assert len(await read(reader, 2)) == 2

    assert [request.headers.get(condition) for request in camera.requests] == [None, value, value, value]
    assert reader.alive_s is not None
    assert len(camera.connections) == 1


async def test_after_a_reconnection_the_same_picture_is_new() -> None:
    async with http_camera(_answers(lambda: web.Response(body=_JPEG, headers={"ETag": "1"}))) as camera:
        reader = new_reader(camera.port)
        frames = await read(reader) + await read(reader)

    assert [frame.frame_id for frame in frames] == [1, 2]


async def test_a_damaged_picture_is_skipped_and_counted() -> None:
    async with http_camera(_answers(_DAMAGED, _DAMAGED, _JPEG, _DAMAGED, _DAMAGED, encoded(grey=200))) as camera:
        reader = new_reader(camera.port)
        assert len(await read(reader, 2)) == 2

    assert reader.damaged == 4


async def test_three_damaged_pictures_in_a_row_are_an_error() -> None:
    async with http_camera(_answers(_JPEG, _DAMAGED)) as camera:
        reader = new_reader(camera.port)
        with pytest.raises(StreamError, match="3 pictures in a row are damaged") as caught:
            await read(reader, 2)

    assert caught.value.error_class == "corrupt"
    assert len(camera.requests) == 4


@pytest.mark.parametrize("body", [b"<html>Login</html>", b""])
async def test_what_is_no_picture_is_a_codec_error(body: bytes) -> None:
    async with http_camera(_answers(body)) as camera:
        assert (await _error_of(new_reader(camera.port))).error_class == "codec"


async def test_a_camera_that_does_not_answer_is_a_timeout() -> None:
    async def never(_: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.Response()

    async with http_camera(never) as camera:
        assert (await _error_of(new_reader(camera.port, timeout_s=0.3))).error_class == "timeout"


async def test_a_camera_that_drips_is_a_timeout() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for byte in _JPEG:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.05)
        return response

    async with http_camera(drip) as camera:
        assert (await _error_of(new_reader(camera.port, timeout_s=0.4))).error_class == "timeout"


async def test_a_closed_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    assert (await _error_of(new_reader(port))).error_class == "refused"


async def test_a_host_that_does_not_exist_is_unreachable() -> None:
    reader = new_reader(0, url="http://camera.invalid/shot", timeout_s=10)

    assert (await _error_of(reader)).error_class == "unreachable"


async def test_a_connection_that_ends_within_a_picture_has_ended() -> None:
    async def half(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + _JPEG[:100])
        await writer.drain()

    async with raw_camera(half) as port:
        assert (await _error_of(new_reader(port))).error_class == "ended"


async def test_an_endless_answer_is_cut_off() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(33):
            await response.write(bytes(2**20))
        await asyncio.sleep(60)  # no more is needed to be refused
        return response

    async with http_camera(endless) as camera:
        error = await _error_of(new_reader(camera.port, timeout_s=20))

    assert error.error_class == "corrupt"
    assert "33554432 bytes" in error.what


async def test_endless_headers_are_cut_off() -> None:
    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-Filler: " + b"a" * 1000 + b"\r\n")
            await writer.drain()

    async with raw_camera(endless) as port:
        assert (await _error_of(new_reader(port, timeout_s=10))).error_class == "corrupt"


async def test_an_answer_that_is_no_http_is_corrupt() -> None:
    async def shell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-camera\r\n")
        await writer.drain()

    async with raw_camera(shell) as port:
        assert (await _error_of(new_reader(port))).error_class == "corrupt"


async def test_a_compressed_answer_is_not_inflated() -> None:
    bomb = gzip.compress(bytes(64 * 2**20), 1)  # inflated it would be refused for its size, not as what it is

    async with http_camera(_answers(web.Response(body=bomb, headers={"Content-Encoding": "gzip"}))) as camera:
        error = await _error_of(new_reader(camera.port))

    assert error.error_class == "codec"
    assert camera.requests[0].headers["Accept-Encoding"] == "identity"


async def test_errors_do_not_show_the_password() -> None:
    async with http_camera(_answers(web.Response(status=404))) as camera:
        url = "http://viewer:canary-password@127.0.0.1:{port}/shot?token=canary-token"
        error = await _error_of(new_reader(camera.port, url=url))

    assert "canary" not in str(error)
    assert error.__context__ is None


async def test_abort_ends_waiting_for_the_next_picture() -> None:
    async with http_camera(_answers(_JPEG)) as camera:

        def work() -> float:
            with opened(new_reader(camera.port, interval_s=60)) as reader:
                assert reader.read_frame() is not None
                aborted_at_s = abort_soon(reader)
                with pytest.raises(StreamError):
                    reader.read_frame()
                return time.monotonic() - aborted_at_s[0]

        assert await asyncio.to_thread(work) < 0.2


async def test_abort_ends_a_running_read_and_the_next_connection_works() -> None:
    hanging = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        if not hanging.is_set():
            hanging.set()
            await asyncio.sleep(10)
        return web.Response(body=_JPEG)

    async with http_camera(answer) as camera:

        def work() -> float:
            with opened(new_reader(camera.port, timeout_s=10)) as reader:
                aborted_at_s = abort_soon(reader)
                with pytest.raises(StreamError):
                    reader.read_frame()
                took_s = time.monotonic() - aborted_at_s[0]
                reader.handle_reconnection()
                assert reader.read_frame() is not None
                return took_s

        assert await asyncio.to_thread(work) < 0.2


async def test_an_abort_before_the_read_ends_it_too() -> None:
    async with http_camera(_answers(_JPEG)) as camera:

        def work() -> None:
            with opened(new_reader(camera.port)) as reader:
                reader.abort()
                with pytest.raises(StreamError):
                    reader.read_frame()

        await asyncio.to_thread(work)


async def test_an_abort_while_it_is_stopping_is_its_end_and_no_error() -> None:
    stopping = threading.Event()
    async with http_camera(_answers(_JPEG)) as camera:

        def work() -> None:
            with opened(new_reader(camera.port, interval_s=60, stopping=stopping)) as reader:
                assert reader.read_frame() is not None
                threading.Timer(0.1, stopping.set).start()
                abort_soon(reader)
                assert reader.read_frame() is None

        await asyncio.to_thread(work)


def test_abort_is_harmless_before_the_connection_and_after_the_end() -> None:
    reader = new_reader(1)
    reader.abort()
    with opened(reader):
        pass
    reader.abort()
