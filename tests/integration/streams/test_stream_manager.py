"""The manager with real cameras: our RTSP server, FFmpeg, threads and sockets."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from support.cameras import FrameLog, StatusLog, scripted_camera, silent_camera, wait_until
from support.tiny_clip import TinyClip, read_frame_number, write_tiny_clip

from detector_worker.core.entities import StreamState
from detector_worker.core.exceptions import MessageProcessingError
from detector_worker.core.frame import Frame
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import Fault, RtspServer, same_film
from detector_worker.streams.stream_manager import StreamConfig, StreamManager

_FPS = 20


@pytest.fixture(scope="module", params=[0, 2], ids=["no B frames", "B frames"])
def any_film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyClip:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    return write_tiny_clip(path, fps=_FPS, seconds=2, gop=10, b_frames=request.param)


@pytest.fixture
async def server(film: TinyClip) -> AsyncIterator[RtspServer]:
    async with RtspServer(same_film(Clip.load(film.path), 3)) as running:
        yield running


def _rtsp(url: str, *, max_retries: int = -1, reconnect_interval: float = 0.2) -> StreamConfig:
    return StreamConfig(stream_url=url, reconnect_interval=reconnect_interval, max_retries=max_retries)


async def test_every_picture_arrives_in_order_over_the_end_of_the_film(
    any_film: TinyClip, manager: StreamManager
) -> None:
    frames = FrameLog()
    async with RtspServer(same_film(Clip.load(any_film.path))) as server:
        await manager.create_stream("gate", _rtsp(server.urls["cam-1"]), "d;gate", deliver=frames)
        received = await frames.take(60)

    numbers = [read_frame_number(frame.bgr()) for frame in received]
    assert numbers == [number % any_film.frames for number in range(60)]
    assert [frame.frame_id for frame in received] == list(range(1, 61))
    assert {frame.camera_id for frame in received} == {"gate"}


async def test_frames_carry_the_time_of_their_arrival(server: RtspServer, manager: StreamManager) -> None:
    frames = FrameLog()
    started_s, started_at = time.monotonic(), time.time()
    await manager.create_stream("gate", _rtsp(server.urls["cam-1"]), "d;gate", deliver=frames)
    received = await frames.take(10)

    times_s = [frame.time_s for frame in received]
    assert times_s == sorted(times_s)
    assert started_s < times_s[0] <= times_s[-1] < time.monotonic()
    assert started_at < received[0].captured_at < time.time()


async def test_a_refused_camera_is_told_and_comes_back_with_the_next_attempt(
    server: RtspServer, manager: StreamManager, statuses: StatusLog
) -> None:
    frames = FrameLog()
    server.set_fault("cam-1", Fault.REFUSE)
    await manager.create_stream("gate", _rtsp(server.urls["cam-1"]), "d;gate", deliver=frames)
    status = await statuses.wait_for(StreamState.ERROR)
    server.set_fault("cam-1", None)

    assert status.error_class == "refused"
    await statuses.wait_for(StreamState.CONNECTING)
    await statuses.wait_for(StreamState.ACTIVE)
    await frames.take(1)


async def test_a_closed_port_is_refused(manager: StreamManager, statuses: StatusLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    await manager.create_stream("gate", _rtsp(f"rtsp://127.0.0.1:{port}/x"), "d;gate", deliver=FrameLog())

    assert (await statuses.wait_for(StreamState.ERROR)).error_class == "refused"


async def test_a_camera_that_does_not_exist_is_not_found_and_not_hammered(
    server: RtspServer, manager: StreamManager, statuses: StatusLog
) -> None:
    url = server.urls["cam-1"].replace("cam-1", "cam-9")
    await manager.create_stream("gate", _rtsp(url), "d;gate", deliver=FrameLog())
    status = await statuses.wait_for(StreamState.ERROR)

    assert status.error_class == "not_found"
    assert status.retry_in_s is not None
    assert status.retry_in_s > 40


async def test_a_cut_connection_has_ended_and_is_opened_again(
    server: RtspServer, manager: StreamManager, statuses: StatusLog
) -> None:
    frames = FrameLog()
    await manager.create_stream("gate", _rtsp(server.urls["cam-1"]), "d;gate", deliver=frames)
    await frames.take(1)
    server.set_fault("cam-1", Fault.REFUSE)
    status = await statuses.wait_for(StreamState.ERROR)
    server.set_fault("cam-1", None)
    await statuses.wait_for(StreamState.ACTIVE)
    info = manager.get_stream_info("gate")

    assert status.error_class == "ended"
    assert (info.status.state, info.reconnects) == (StreamState.ACTIVE, 1)
    assert info.error_count >= 1


async def test_a_camera_s_fault_leaves_another_one_alone(
    server: RtspServer, manager: StreamManager, statuses: StatusLog
) -> None:
    frames = FrameLog()
    await manager.create_stream("faulty", _rtsp(server.urls["cam-1"]), "d;faulty", deliver=FrameLog())
    await manager.create_stream("sound", _rtsp(server.urls["cam-2"]), "d;sound", deliver=frames)
    await frames.take(1)
    server.set_fault("cam-1", Fault.REFUSE)
    await statuses.wait_for(StreamState.ERROR, camera_id="faulty")
    numbers = [read_frame_number(frame.bgr()) for frame in await frames.take(_FPS)]

    assert all((after - before) % 40 == 1 for before, after in pairwise(numbers))
    assert manager.get_stream_info("sound").error_count == 0


async def test_two_subscriptions_share_one_connection(server: RtspServer, manager: StreamManager) -> None:
    first, second = FrameLog(), FrameLog()
    await manager.create_stream("gate", _rtsp(server.urls["cam-1"]), "a;gate", deliver=first)
    await first.take(1)
    await manager.create_stream("yard", _rtsp(server.urls["cam-1"]), "b;yard", deliver=second)
    (seen,) = await second.take(1)

    assert server.connected("cam-1") == 1
    assert seen.camera_id == "yard"
    await manager.remove_stream("a;gate")
    await second.take(5)
    await manager.remove_stream("b;yard")
    await wait_until(lambda: server.connected("cam-1") == 0)


async def test_a_subscriber_that_raises_does_not_hurt_another(
    server: RtspServer, manager: StreamManager, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(frame: Frame) -> None:
        raise ZeroDivisionError

    frames = FrameLog()
    await manager.create_stream("gate", _rtsp(server.urls["cam-1"]), "a;gate", deliver=broken)
    await manager.create_stream("gate", _rtsp(server.urls["cam-1"]), "b;gate", deliver=frames)
    await frames.take(10)

    assert manager.get_stream_info("gate").error_count == 0
    assert [record.levelname for record in caplog.records if "a;gate" in record.message] == ["ERROR"]


async def test_the_newest_frame_can_be_had(server: RtspServer, manager: StreamManager) -> None:
    frames = FrameLog()
    assert manager.get_latest_frame("gate") is None
    await manager.create_stream("gate", _rtsp(server.urls["cam-1"]), "d;gate", deliver=frames)
    received = await frames.take(5)
    latest = manager.get_latest_frame("gate")

    assert latest is not None
    assert latest.frame_id >= received[-1].frame_id


async def test_reconnecting_on_demand_ends_a_waiting_time(
    server: RtspServer, manager: StreamManager, statuses: StatusLog
) -> None:
    server.set_fault("cam-1", Fault.REFUSE)
    config = _rtsp(server.urls["cam-1"], reconnect_interval=60)
    stream_id = await manager.create_stream("gate", config, "d;gate", deliver=FrameLog())
    await statuses.wait_for(StreamState.ERROR)
    server.set_fault("cam-1", None)
    await manager.reconnect_stream(stream_id)

    await statuses.wait_for(StreamState.ACTIVE)


async def test_a_camera_that_does_not_come_back_has_failed(
    server: RtspServer, manager: StreamManager, statuses: StatusLog
) -> None:
    server.set_fault("cam-1", Fault.REFUSE)
    config = _rtsp(server.urls["cam-1"], max_retries=1)
    await manager.create_stream("gate", config, "d;gate", deliver=FrameLog())

    assert (await statuses.wait_for(StreamState.FAILED)).error_class == "refused"


async def test_udp_is_tried_where_the_camera_refuses_tcp(manager: StreamManager, statuses: StatusLog) -> None:
    asked: list[str] = []

    def refuse(transport: str) -> str:
        asked.append(transport)
        return "461 Unsupported Transport"

    async with scripted_camera(refuse) as port:
        await manager.create_stream("gate", _rtsp(f"rtsp://127.0.0.1:{port}/x"), "d;gate", deliver=FrameLog())
        status = await statuses.wait_for(StreamState.ERROR)
        await manager.stop_all_streams()

    assert [transport.split(";")[0] for transport in asked] == ["RTP/AVP/TCP", "RTP/AVP/UDP"]
    assert status.error_class == "refused"


async def test_a_camera_that_hangs_after_play_is_seen_within_ten_seconds(
    manager: StreamManager, statuses: StatusLog
) -> None:
    def accept(transport: str) -> str:
        return f"200 OK\r\nSession: 1\r\nTransport: {transport}"

    async with scripted_camera(accept) as port:
        await manager.create_stream("gate", _rtsp(f"rtsp://127.0.0.1:{port}/x"), "d;gate", deliver=FrameLog())
        status = await statuses.wait_for(StreamState.STALLED, timeout_s=10)
        await manager.stop_all_streams()

    assert StreamState.ACTIVE not in {told.state for told in statuses.history}
    assert status.error_class == "timeout"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "concat:a|b", "http://host/x", "gate", "rtsp://"])
async def test_an_address_of_another_kind_is_refused(manager: StreamManager, url: str) -> None:
    threads = threading.active_count()
    with pytest.raises(MessageProcessingError):
        await manager.create_stream("gate", _rtsp(url), "d;gate", deliver=FrameLog())

    assert threading.active_count() <= threads
    with pytest.raises(KeyError):
        manager.get_stream_info("gate")


def _reader_threads() -> int:
    return sum(thread.name.startswith("reader-") for thread in threading.enumerate())


async def _stop_time_s(manager: StreamManager) -> float:
    started_s = time.monotonic()
    await manager.stop_all_streams()
    return time.monotonic() - started_s


async def test_it_stops_in_time_while_connecting_to_a_silent_camera(
    manager: StreamManager, statuses: StatusLog
) -> None:
    async with silent_camera() as port:
        await manager.create_stream("gate", _rtsp(f"rtsp://127.0.0.1:{port}/x"), "d;gate", deliver=FrameLog())
        await statuses.wait_for(StreamState.CONNECTING)

        assert await _stop_time_s(manager) < 1
        assert _reader_threads() == 0


async def test_it_stops_in_time_while_waiting_and_while_reading(
    server: RtspServer, manager: StreamManager, statuses: StatusLog
) -> None:
    frames = FrameLog()
    server.set_fault("cam-1", Fault.REFUSE)
    config = _rtsp(server.urls["cam-1"], reconnect_interval=60)
    await manager.create_stream("waiting", config, "d;waiting", deliver=FrameLog())
    await manager.create_stream("reading", _rtsp(server.urls["cam-2"]), "d;reading", deliver=frames)
    await statuses.wait_for(StreamState.ERROR, camera_id="waiting")
    await frames.take(1)

    assert await _stop_time_s(manager) < 1
    assert _reader_threads() == 0


async def test_after_a_stop_nothing_is_told_or_delivered(
    server: RtspServer, manager: StreamManager, statuses: StatusLog
) -> None:
    frames = FrameLog()
    await manager.create_stream("gate", _rtsp(server.urls["cam-1"]), "d;gate", deliver=frames)
    await frames.take(1)
    await manager.remove_stream("d;gate")
    await asyncio.sleep(0)
    told, delivered = len(statuses.all), frames.waiting()
    server.set_fault("cam-1", Fault.REFUSE)
    await wait_until(lambda: server.connected("cam-1") == 0)

    assert (len(statuses.all), frames.waiting()) == (told, delivered)


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_many_reconnects_leave_no_thread_and_no_descriptor(
    server: RtspServer, manager: StreamManager, statuses: StatusLog
) -> None:
    frames = FrameLog()
    stream_id = await manager.create_stream("gate", _rtsp(server.urls["cam-1"]), "d;gate", deliver=frames)

    async def reconnect(times: int) -> None:
        for _ in range(times):
            await statuses.wait_for(StreamState.ACTIVE)
            await manager.reconnect_stream(stream_id)

    async def settle() -> None:
        await statuses.wait_for(StreamState.ACTIVE)
        await wait_until(lambda: server.connected("cam-1") == 1)

    await reconnect(3)
    await settle()
    threads, descriptors = threading.active_count(), _open_descriptors()
    await manager.reconnect_stream(stream_id)
    await reconnect(30)
    await settle()

    assert threading.active_count() <= threads
    await wait_until(lambda: _open_descriptors() <= descriptors)


async def test_the_password_is_shown_nowhere(
    server: RtspServer, manager: StreamManager, statuses: StatusLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with silent_camera() as port:
        urls = [
            server.urls["cam-1"].replace("cam-1", "cam-9"),
            server.urls["cam-2"].replace("cam-2", "cam-2?token=canary-token"),
            f"rtsp://127.0.0.1:{port}/x",
            "rtsp://127.0.0.1:1/x",
        ]
        server.set_fault("cam-2", Fault.REFUSE)
        configs = [_rtsp(url.replace("rtsp://", "rtsp://viewer:canary-password@")) for url in urls]
        for number, config in enumerate(configs):
            await manager.create_stream(f"cam-{number}", config, f"d;{number}", deliver=FrameLog())
        infos = []
        for camera_id in ("cam-0", "cam-1", "cam-3"):
            await statuses.wait_for(StreamState.ERROR, camera_id=camera_id)
            infos.append(manager.get_stream_info(camera_id))
    shown = f"{statuses.history} {infos} {configs} {caplog.text}"

    assert len(statuses.history) > 6
    assert "canary" not in shown


def test_a_picture_under_another_name_is_the_same_picture() -> None:
    frame = Frame(np.zeros((2, 2, 3), np.uint8), camera_id="gate", frame_id=3, time_s=1.0, captured_at=2.0)
    other = frame.seen_as("yard")

    assert (other.camera_id, other.frame_id, other.time_s, other.captured_at) == ("yard", 3, 1.0, 2.0)
    assert other.bgr() is frame.bgr()
