"""A lane passes over what shows nothing new, and still tells whoever watches what is there."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from support.tiny_models import BGR, write_tiny_mpta
from support.waiting import wait_until
from support.watched_group import WatchedGroup, watched_group

from detector_worker.core.frame import Frame
from detector_worker.engine.engine import LaneResult, SubscriptionSpec
from detector_worker.engine.lane import Analysed, Lane

FPS = 5


def picture(number: int, *, x: int | None) -> Frame:
    """A grey scene with the corner of a red square at ``x``."""
    image = np.full((384, 640, 3), 112, np.uint8)
    if x is not None:
        image[160:224, x : x + 64] = BGR["red"]
    return Frame(image, camera_id="gate", frame_id=number, time_s=number / FPS, captured_at=100 + number / FPS)


async def a_lane(group: WatchedGroup, folder: Path, seen: list[Analysed], **motion: Any) -> Lane:
    quiet: dict[str, Any] = {"actions": [], "branches": [], "parallelActions": []}
    archive = write_tiny_mpta(folder / "tiny.mpta", targetFps=100, motion=motion, **quiet)
    spec = SubscriptionSpec("desk;gate", "desk", "gate", str(archive), rtsp_url="rtsp://127.0.0.1/")
    return await group.load_lane(spec, lossless=True, observe=seen.append)


async def analyse(lane: Lane, frames: list[Frame]) -> None:
    for frame in frames:
        lane.offer(frame)
        await asyncio.to_thread(lane.begin())
        lane.end()


def told_by(group: WatchedGroup) -> list[LaneResult]:
    return [result for result in group.log.results if not result.final]


async def test_a_parked_object_is_looked_at_again_only_now_and_then(tmp_path: Path) -> None:
    seen: list[Analysed] = []
    async with watched_group(tmp_path / "data") as group:
        lane = await a_lane(group, tmp_path, seen, recheckSeconds=2)
        await analyse(lane, [picture(number, x=320) for number in range(60)])

        settled = [one.frame.frame_id for one in seen if one.frame.frame_id > 10]
        assert np.diff(settled).tolist() == [2 * FPS] * (len(settled) - 1)
        assert len(settled) in {4, 5}
        assert lane.still == 60 - len(seen)
        assert lane.newest is not None
        assert lane.newest[0].frame_id == 59
        assert lane.newest[1] is lane.visits.tracked
        assert len(lane.visits.live_visits()) == 1
        assert lane.report(errors=0, reconnects=0, damaged=0).fps_still > 0


async def test_an_object_that_appears_or_leaves_is_noticed_within_two_frames(tmp_path: Path) -> None:
    seen: list[Analysed] = []
    async with watched_group(tmp_path / "data") as group:
        lane = await a_lane(group, tmp_path, seen, recheckSeconds=1000)
        await analyse(lane, [picture(number, x=320 if 40 <= number < 80 else None) for number in range(100)])

    looked_at = {one.frame.frame_id for one in seen}
    assert looked_at & {40, 41}
    assert looked_at & {80, 81}
    assert not looked_at & {*range(10, 40), *range(60, 80)}


async def test_without_the_gate_every_frame_is_analysed(tmp_path: Path) -> None:
    seen: list[Analysed] = []
    async with watched_group(tmp_path / "data") as group:
        lane = await a_lane(group, tmp_path, seen, enabled=False)
        await analyse(lane, [picture(number, x=320) for number in range(30)])

    assert len(seen) == 30


async def test_live_detections_of_a_still_frame_are_those_of_the_last_look(tmp_path: Path) -> None:
    async with watched_group(tmp_path / "data") as group:
        lane = await a_lane(group, tmp_path, [], recheckSeconds=1000)
        lane.live_detections = True
        await analyse(lane, [picture(number, x=320) for number in range(30)])
        assert lane.still > 20
        await wait_until(lambda: len(told_by(group)) == 30)

    told = told_by(group)
    assert [result.frame_id for result in told] == list(range(30))
    assert told[-1].captured_at == 100 + 29 / FPS
    assert told[-1].detections[0].bounding_box == told[5].detections[0].bounding_box
    assert told[-1].detections[0].track_id == told[5].detections[0].track_id
