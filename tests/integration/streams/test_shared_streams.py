"""Subscriptions that share, replace and stand in for each other, with real cameras."""

import asyncio
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from support.cameras import FrameLog, StatusLog, wait_until
from support.tiny_clip import TinyClip, read_frame_number, write_tiny_clip

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.entities import StreamState
from detector_worker.core.frame import Frame, PairedFrame
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.faults import Fault
from detector_worker.simulator.rtsp_server import RtspServer, same_film
from detector_worker.simulator.snapshot_server import SnapshotServer
from detector_worker.streams.detail_stream import DetailStream
from detector_worker.streams.stream_manager import StreamConfig, StreamManager

_FPS = 20


@pytest.fixture(scope="module")
def clip(film: TinyClip) -> Clip:
    return Clip.load(film.path)


@pytest.fixture
async def server(clip: Clip) -> AsyncIterator[RtspServer]:
    async with RtspServer(same_film(clip, 4)) as running:
        yield running


def _config(url: str, **others: object) -> StreamConfig:
    return StreamConfig(stream_url=url, reconnect_interval=0.5, **others)  # type: ignore[arg-type]


def _numbers(frames: list[Frame]) -> list[int]:
    return [read_frame_number(frame.bgr()) for frame in frames]


async def test_a_replaced_subscription_misses_no_picture(server: RtspServer, manager: StreamManager) -> None:
    before, after = FrameLog(), FrameLog()
    await manager.create_stream("gate", _config(server.urls["cam-1"]), "d;gate", deliver=before)
    seen = await before.take(5)
    replacing = _config(server.urls["cam-1"], target_fps=2.0, crop_region=(0, 0, 10, 10))
    await manager.create_stream("gate", replacing, "d;gate", deliver=after)
    seen += await before.take(before.waiting()) + await after.take(10)

    assert all((later - earlier) % 40 == 1 for earlier, later in pairwise(_numbers(seen)))
    assert manager.get_stream_info("gate").connects == 1
    assert server.connected("cam-1") == 1


async def test_an_address_that_nobody_watches_any_more_is_let_go(server: RtspServer, manager: StreamManager) -> None:
    frames = FrameLog()
    await manager.create_stream("gate", _config(server.urls["cam-1"]), "d;gate", deliver=frames)
    await frames.take(1)
    await manager.create_stream("gate", _config(server.urls["cam-2"]), "d;gate", deliver=frames)
    await wait_until(lambda: (server.connected("cam-1"), server.connected("cam-2")) == (0, 1))


async def test_other_rates_and_crops_share_a_connection_and_other_transports_do_not(
    server: RtspServer, manager: StreamManager
) -> None:
    logs = [FrameLog() for _ in range(3)]
    url = server.urls["cam-1"]
    configs = (
        _config(url),
        _config(url, target_fps=1.0, snapshot_interval_s=3.0, crop_region=(0, 0, 9, 9)),
        _config(url, transport="tcp"),
    )
    for number, (config, log) in enumerate(zip(configs, logs, strict=True)):
        await manager.create_stream(f"cam-{number}", config, f"d;{number}", deliver=log)
    for log in logs:
        await log.take(1)

    assert server.connected("cam-1") == 2


async def test_snapshots_stand_in_while_rtsp_is_down_and_leave_when_it_is_back(
    server: RtspServer, clip: Clip, manager: StreamManager, statuses: StatusLog
) -> None:
    frames = FrameLog()
    async with SnapshotServer({"cam-1": clip}) as snapshots:
        config = _config(server.urls["cam-1"], fallback_url=snapshots.urls["cam-1"], snapshot_interval_s=0.2)
        await manager.create_stream("gate", config, "d;gate", deliver=frames)
        await frames.take(1)
        assert snapshots.connections_made("cam-1") == 0
        server.set_fault("cam-1", Fault.REFUSE)
        await wait_until(lambda: "fallback" in manager.get_stream_info("gate").status.warnings)
        await frames.take(frames.waiting())
        seen = await frames.take(3)
        status = manager.get_stream_info("gate").status

        assert status.error_class in {"ended", "refused"}  # the camera's own state is not glossed over
        assert seen[0].frame_id < seen[1].frame_id < seen[2].frame_id
        server.set_fault("cam-1", None)
        await wait_until(lambda: manager.get_stream_info("gate").status.state is StreamState.ACTIVE)
        await wait_until(lambda: snapshots.connected("cam-1") == 0)
        assert manager.get_stream_info("gate").status.warnings == ()


async def test_smaller_snapshots_stand_in_in_the_pixels_of_the_camera(
    server: RtspServer, manager: StreamManager
) -> None:
    frames = FrameLog()
    small = cv2.imencode(".jpg", np.full((192, 320, 3), 90, np.uint8))[1].tobytes()
    async with SnapshotServer({"cam-1": small}) as snapshots:
        config = _config(server.urls["cam-1"], fallback_url=snapshots.urls["cam-1"], snapshot_interval_s=0.2)
        await manager.create_stream("gate", config, "d;gate", deliver=frames)
        await frames.take(1)
        server.set_fault("cam-1", Fault.REFUSE)
        await wait_until(lambda: "fallback" in manager.get_stream_info("gate").status.warnings)
        seen = (await frames.take(frames.waiting()))[-1]
        await manager.stop_all_streams()

    assert (seen.wh, seen.bgr().shape) == ((640, 384), (384, 640, 3))
    assert seen.shows_detail  # there is nothing better to wait for


async def test_a_frozen_camera_is_opened_anew_where_that_was_asked_for(
    server: RtspServer, manager: StreamManager, statuses: StatusLog
) -> None:
    frames = FrameLog()
    await manager.create_stream("gate", _config(server.urls["cam-1"], frozen_after_s=2.0), "d;gate", deliver=frames)
    await frames.take(_FPS * 3)  # a running film is not frozen
    assert {status.state for status in statuses.history} == {StreamState.CONNECTING, StreamState.ACTIVE}
    server.set_fault("cam-1", Fault.FREEZE)
    status = await statuses.wait_for(StreamState.ERROR)

    assert status.error_class == "timeout"
    assert "not changed" in str(status.reason)


async def test_the_large_stream_is_open_only_while_crops_are_wanted(
    tmp_path: Path, clip: Clip, manager: StreamManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector_worker.streams.detail_stream._KEEP_OPEN_S", 1.0)
    large = write_tiny_clip(tmp_path / "large.mp4", wh=(1280, 768), fps=_FPS, seconds=2, gop=10)
    async with RtspServer({"small": clip, "large": Clip.load(large.path)}) as cameras:
        detail = DetailStream(manager, "gate", _config(cameras.urls["large"]), "d;gate")
        frames = FrameLog()
        await manager.create_stream("gate", _config(cameras.urls["small"]), "d;gate", deliver=frames)
        (small,) = await frames.take(1)
        assert detail.pair(small) is None

        await detail.tend()
        await wait_until(lambda: detail.pair(small) is not None)
        await wait_until_tended(detail, lambda: cameras.connected("large") == 0)
        without = detail.pair((await frames.take(frames.waiting() + 1))[-1])
        detail.ask()
        await wait_until_tended(detail, lambda: cameras.connected("large") == 1 and bool(detail._frames))
        paired = detail.pair((await frames.take(frames.waiting() + 1))[-1])
        await detail.close()
        await wait_until(lambda: cameras.connected("large") == 0)

    assert without is not None
    assert paired is not None
    assert (without.wh, paired.wh) == ((1280, 768), (1280, 768))
    assert (without.bgr().shape, paired.bgr().shape) == ((768, 1280, 3), (768, 1280, 3))
    assert isinstance(paired, PairedFrame)
    assert paired._large is not None
    assert abs(paired._large.time_s - paired.time_s) <= 1.5 / _FPS  # the large one of the same moment
    assert not without.shows_detail
    assert paired.shows_detail


async def wait_until_tended(detail: DetailStream, condition: Callable[[], bool]) -> None:
    for _ in range(200):
        await detail.tend()
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come true in time")


async def test_a_camera_on_a_denied_network_is_refused_with_the_reason(server: RtspServer, statuses: StatusLog) -> None:
    policy = NetworkPolicy(denied=(ip_network("127.0.0.0/8"),))
    manager = StreamManager(notify=statuses, policy=policy)
    await manager.create_stream("gate", _config(server.urls["cam-1"]), "d;gate", deliver=FrameLog())
    status = await statuses.wait_for(StreamState.ERROR)
    await manager.stop_all_streams()

    assert "must not connect" in str(status.reason)
    assert server.connected("cam-1") == 0


async def test_a_covered_camera_raises_a_warning_and_goes_on(
    tmp_path: Path, manager: StreamManager, statuses: StatusLog
) -> None:
    dark = tmp_path / "dark.mp4"
    with av.open(str(dark), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 640, 384, "yuv420p"
        for _ in range(20):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((384, 640, 3), 9, np.uint8), format="bgr24"))
            )
        container.mux(stream.encode(None))
    async with RtspServer({"cam-1": Clip.load(dark)}) as cameras:
        await manager.create_stream("gate", _config(cameras.urls["cam-1"]), "d;gate", deliver=FrameLog())
        await statuses.wait_for(StreamState.ACTIVE)
        told = await statuses.wait_for(StreamState.ACTIVE, timeout_s=13)
        await manager.stop_all_streams()

    assert told.warnings == ("blind",)
