import asyncio
import time

import pytest
from aiohttp import web
from support.http_cameras import Answer, abort_soon, encoded, http_camera, multipart, new_reader, opened, read

from detector_worker.core.exceptions import StreamError
from detector_worker.streams import http_pictures
from detector_worker.streams.snapshot_reader import HTTPSnapshotReader

_TYPE = "multipart/x-mixed-replace;boundary=frame"
_GREYS = (10, 60, 110, 160, 210)
_SILENT_AFTER_S = http_pictures._SILENT_AFTER_S


def _mjpeg(*chunks: bytes, pause_s: float = 0.0, content_type: str = _TYPE, hang_s: float = 0.0) -> Answer:
    """Send these, with a pause behind each; then hang, and end."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(pause_s)
        await asyncio.sleep(hang_s)
        return response

    return answer


async def _error_of(reader: HTTPSnapshotReader, frames: int = 1) -> StreamError:
    with pytest.raises(StreamError) as caught:
        await read(reader, frames)
    return caught.value


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("content_type", [_TYPE, 'Multipart/X-Mixed-Replace; boundary="--frame"', "multipart/mixed"])
async def test_the_pictures_of_a_stream_come_from_one_answer(content_type: str, length: bool) -> None:
    parts = [multipart(encoded(grey=grey), length=length) for grey in _GREYS]
    async with http_camera(_mjpeg(*parts, b"--frame", pause_s=0.05, content_type=content_type)) as camera:
        frames = await read(new_reader(camera.port, interval_s=0.0), 5)

    assert [round(float(frame.bgr().mean()), -1) for frame in frames] == list(_GREYS)
    assert [frame.frame_id for frame in frames] == [1, 2, 3, 4, 5]
    assert len(camera.requests) == 1


async def test_the_newest_picture_is_taken_when_one_is_due_and_those_before_are_not_decoded() -> None:
    undecodable = multipart(b"\xff\xd8\xff no picture")
    parts = [multipart(encoded(grey=10)), *[undecodable] * 6, multipart(encoded(grey=210))]
    async with http_camera(_mjpeg(*parts, pause_s=0.05, hang_s=5)) as camera:
        reader = new_reader(camera.port, interval_s=1.0)
        first, second = await read(reader, 2)

    assert (round(float(first.bgr().mean()), -1), round(float(second.bgr().mean()), -1)) == (10, 210)
    assert reader.damaged == 0
    assert second.time_s - first.time_s == pytest.approx(0.35, abs=0.25)  # when it came, not when it was taken


async def test_a_picture_that_stands_still_makes_no_frame_but_shows_that_the_camera_lives() -> None:
    still = multipart(encoded(grey=10))
    async with http_camera(_mjpeg(still, still, still, multipart(encoded(grey=210)), pause_s=0.1)) as camera:
        reader = new_reader(camera.port)
        first, second = await read(reader, 2)

    assert reader.alive_s is not None
    assert first.time_s < reader.alive_s < second.time_s


async def test_a_stream_that_ends_is_an_ended_camera() -> None:
    async with http_camera(_mjpeg(multipart(encoded()))) as camera:
        assert (await _error_of(new_reader(camera.port), 2)).error_class == "ended"


@pytest.mark.slow
async def test_a_stream_that_falls_silent_is_a_timeout() -> None:
    async with http_camera(_mjpeg(multipart(encoded()), hang_s=20)) as camera:
        start_s = time.monotonic()
        error = await _error_of(new_reader(camera.port), 2)
        took_s = time.monotonic() - start_s

    assert error.error_class == "timeout"
    assert _SILENT_AFTER_S <= took_s < 10


@pytest.mark.slow
async def test_a_stream_that_drips_is_a_timeout() -> None:
    drip = [bytes([byte]) for byte in multipart(bytes(1000))]
    async with http_camera(_mjpeg(*drip, pause_s=0.3)) as camera:
        assert (await _error_of(new_reader(camera.port))).error_class == "timeout"


@pytest.mark.parametrize(
    ("flood", "words"),
    [
        (b"--frame\r\n" + b"X-Filler: y\r\n" * 10_000, "header"),
        (b"--frame\r\nContent-Length: 99999999999\r\n\r\n", "body"),
        (b"--frame\r\n\r\n" * 1000, "empty"),
        (multipart(b"x") * 1000, "240 parts"),
    ],
)
async def test_a_stream_that_breaks_a_bound_is_refused(flood: bytes, words: str) -> None:
    async with http_camera(_mjpeg(multipart(encoded()), flood, pause_s=0.1, hang_s=5)) as camera:
        error = await _error_of(new_reader(camera.port), 2)

    assert error.error_class == "corrupt"
    assert words in error.what


async def test_an_endless_part_is_refused() -> None:
    async with http_camera(_mjpeg(b"--frame\r\n\r\n", *[bytes(2**20)] * 40)) as camera:
        error = await _error_of(new_reader(camera.port, timeout_s=10))

    assert error.error_class == "corrupt"


async def test_a_boundary_without_end_is_refused() -> None:
    content_type = "multipart/x-mixed-replace;boundary=" + "x" * 5000
    async with http_camera(_mjpeg(b"--", content_type=content_type, hang_s=5)) as camera:
        assert (await _error_of(new_reader(camera.port))).error_class == "corrupt"


async def test_abort_ends_waiting_for_a_part() -> None:
    async with http_camera(_mjpeg(multipart(encoded()), hang_s=20)) as camera:

        def work() -> float:
            with opened(new_reader(camera.port)) as reader:
                assert reader.read_frame() is not None
                aborted_at_s = abort_soon(reader)
                with pytest.raises(StreamError):
                    reader.read_frame()
                return time.monotonic() - aborted_at_s[0]

        assert await asyncio.to_thread(work) < 0.2
