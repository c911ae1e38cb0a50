"""A lane analyses a new size of pictures only when its model is compiled for it, which no frame waits for."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_models import write_tiny_mpta
from support.waiting import wait_until
from support.watched_group import WatchedGroup, watched_group

from detector_worker.core.frame import Frame
from detector_worker.engine.engine import SubscriptionSpec
from detector_worker.engine.lane import Lane


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    quiet: dict[str, Any] = {"actions": [], "branches": [], "parallelActions": []}
    return write_tiny_mpta(tmp_path / "open.mpta", detector_hw=None, targetFps=100, **quiet)


def picture(wh: tuple[int, int], number: int) -> Frame:
    image = np.full((wh[1], wh[0], 3), 128, np.uint8)
    return Frame(image, camera_id="gate", frame_id=number, time_s=float(number), captured_at=0.0)


async def a_lane(group: WatchedGroup, archive: Path, crop: tuple[int, int, int, int] | None = None) -> Lane:
    spec = SubscriptionSpec("desk;gate", "desk", "gate", str(archive), rtsp_url="rtsp://127.0.0.1/", crop=crop)
    return await group.load_lane(spec, lossless=False)


async def test_frames_of_a_new_size_are_passed_over_until_the_model_is_compiled_for_them(
    tmp_path: Path, archive: Path
) -> None:
    async with watched_group(tmp_path / "data") as group:
        lane = await a_lane(group, archive)
        model = lane.detector.model
        for number, wh in ((1, (640, 480)), (3, (360, 640))):
            lane.offer(picture(wh, number))
            assert lane.waiting_since_s() is None
            assert not model.is_ready_for(wh), "the reader has not waited"

            await wait_until(partial(model.is_ready_for, wh))
            lane.offer(picture(wh, number + 1))
            assert lane.waiting_since_s() == number + 1
            await asyncio.to_thread(lane.begin())
            lane.end()
            assert lane.newest is not None
            assert lane.newest[0].wh == wh


async def test_what_counts_is_the_size_of_what_is_analysed(tmp_path: Path, archive: Path) -> None:
    async with watched_group(tmp_path / "data") as group:
        lane = await a_lane(group, archive, crop=(0, 0, 320, 192))  # as every detector is loaded

        lane.offer(picture((640, 480), 1))

        assert lane.waiting_since_s() == 1.0


async def test_a_network_is_compiled_once_for_all_cameras_that_wait_for_it(tmp_path: Path, archive: Path) -> None:
    async with watched_group(tmp_path / "data") as group:
        lanes = [await a_lane(group, archive) for _ in range(4)]
        for lane in lanes:
            lane.offer(picture((640, 480), 1))
        await asyncio.sleep(0)

        assert len(group._maker._compiling) == 1
        await wait_until(partial(lanes[0].detector.model.is_ready_for, (640, 480)))
