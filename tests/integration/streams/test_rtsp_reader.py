"""The reader of one camera, without a manager."""

import asyncio
import threading
import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.cameras import silent_camera, wait_until
from support.tiny_clip import read_frame_number, write_tiny_clip

from detector_worker.core.addresses import Address
from detector_worker.core.clock import SystemClock
from detector_worker.core.exceptions import StreamError
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film
from detector_worker.streams.frame_reader import RTSPReader


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RtspServer]:
    async with RtspServer(
        same_film(Clip.load(write_tiny_clip(tmp_path / "film.mp4", fps=20, seconds=1).path))
    ) as running:
        yield running


def _reader(url: str, *, open_timeout_s: float = 7.0) -> RTSPReader:
    return RTSPReader(
        Address.parse(url.replace("rtsp://", "rtsp://viewer:canary-password@"), frozenset({"rtsp"})),
        "gate",
        threading.Event(),
        clock=SystemClock(),
        open_timeout_s=open_timeout_s,
    )


async def test_the_first_picture_is_the_key_frame_and_comes_soon(server: RtspServer) -> None:
    reader = _reader(server.urls["cam-1"])
    async with asyncio.timeout(2):  # FFmpeg left alone takes a second to guess the rate, or a GOP with "nobuffer"
        await asyncio.to_thread(reader.connect)
        frame = await asyncio.to_thread(reader.read_frame)
    reader.close()

    assert frame is not None
    assert read_frame_number(frame.bgr()) == 0


async def test_frame_ids_go_on_over_a_reconnection(server: RtspServer) -> None:
    reader = _reader(server.urls["cam-1"])

    def work() -> list[int]:
        reader.connect()
        ids = [frame.frame_id for _ in range(3) if (frame := reader.read_frame())]
        reader.handle_reconnection()
        ids += [frame.frame_id for _ in range(3) if (frame := reader.read_frame())]
        reader.close()
        return ids

    assert await asyncio.to_thread(work) == [1, 2, 3, 4, 5, 6]


async def test_the_camera_loses_its_viewer_when_the_reader_closes(server: RtspServer) -> None:
    reader = _reader(server.urls["cam-1"])
    await asyncio.to_thread(reader.connect)
    assert server.connected("cam-1") == 1
    await asyncio.to_thread(reader.close)

    await wait_until(lambda: server.connected("cam-1") == 0)


async def test_not_even_a_traceback_shows_the_password(server: RtspServer) -> None:
    reader = _reader(server.urls["cam-1"].replace("cam-1", "cam-9"))
    with pytest.raises(StreamError) as caught:
        await asyncio.to_thread(reader.connect)
    reader.close()

    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


async def test_a_camera_that_does_not_answer_is_a_timeout() -> None:
    async with silent_camera() as port:
        reader = _reader(f"rtsp://127.0.0.1:{port}/x", open_timeout_s=0.5)
        with pytest.raises(StreamError) as caught:
            await asyncio.to_thread(reader.connect)

    assert caught.value.error_class == "timeout"
