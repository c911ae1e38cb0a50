"""Many subscriptions of few cameras, and cameras with large or unusual pictures, through a whole group."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Final

import pytest
from support.tiny_clip import Square, read_frame_number, write_tiny_clip
from support.tiny_models import write_tiny_mpta
from support.waiting import wait_until
from support.watched_group import watched_group

from detector_worker.core.frame import Frame
from detector_worker.engine.lane import Analysed
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film

_CAMERAS: Final = 4
_SECONDS: Final = 5.0
_RATES: Final = (0.5, 1.0, 2.0, 4.0)
_LEFT, _RIGHT = (0, 0, 320, 384), (320, 0, 640, 384)
_SQUARES: Final = (Square("red", (100.0, 200.0)), Square("green", (450.0, 200.0)))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    quiet: dict[str, Any] = {"actions": [], "branches": [], "parallelActions": [], "motion": {"enabled": False}}
    return write_tiny_mpta(tmp_path / "tiny.mpta", detector_hw=(384, 320), **quiet)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RtspServer]:
    film = write_tiny_clip(tmp_path / "film.mp4", squares=_SQUARES, fps=20, seconds=2)
    async with RtspServer(same_film(Clip.load(film.path), _CAMERAS)) as running:
        yield running


class Seen:
    """How many frames were analysed of each camera name, and what was found in them."""

    def __init__(self) -> None:
        self.frames = Counter[str]()
        self.classes: dict[str, set[str]] = defaultdict(set)

    def __call__(self, analysed: Analysed) -> None:
        camera_id, found = analysed.frame.camera_id, analysed.detections
        self.frames[camera_id] += 1
        self.classes[camera_id] |= {found.class_names[number] for number in found.class_id}


async def test_thirty_two_subscriptions_of_four_addresses_open_four_connections(
    tmp_path: Path, server: RtspServer, archive: Path
) -> None:
    seen = Seen()
    wanted = {
        f"{camera_id};{rate:g};{side}": (camera_id, rate, crop)
        for camera_id, rate, (side, crop) in product(server.urls, _RATES, (("left", _LEFT), ("right", _RIGHT)))
    }
    async with watched_group(tmp_path / "data", observe=seen) as group:
        for name, (camera_id, rate, crop) in wanted.items():
            await group.watch(name, server.urls[camera_id], archive, target_fps=rate, crop=crop)
        await wait_until(lambda: all(seen.frames[name] for name in wanted), timeout_s=10)
        before = Counter(seen.frames)
        await asyncio.sleep(_SECONDS)
        analysed = seen.frames - before
        connections = {camera_id: server.connected(camera_id) for camera_id in server.urls}

    assert len(wanted) == 32
    assert connections == dict.fromkeys(server.urls, 1)
    for name, (_, rate, crop) in wanted.items():
        assert 0.6 * rate * _SECONDS - 1 <= analysed[name] <= rate * _SECONDS + 1, name
        assert seen.classes[name] == {"red" if crop == _LEFT else "green"}, name


@pytest.mark.parametrize(
    ("codec", "wh"),
    [("libx264", (2560, 1440)), ("libx265", (1280, 720)), ("mjpeg", (1280, 720))],
    ids=["H.264 of 4 megapixels", "H.265", "Motion JPEG"],
)
async def test_large_pictures_and_other_codecs_are_analysed(
    tmp_path: Path, archive: Path, codec: str, wh: tuple[int, int]
) -> None:
    frames: list[Frame] = []
    path = tmp_path / ("film.avi" if codec == "mjpeg" else "film.mp4")
    film = write_tiny_clip(path, wh=wh, fps=10, seconds=1, gop=5, codec=codec)
    async with (
        RtspServer(same_film(Clip.load(film.path))) as server,
        watched_group(tmp_path / "data", observe=lambda analysed: frames.append(analysed.frame)) as group,
    ):
        await group.watch("gate", server.urls["cam-1"], archive, target_fps=10.0)
        await wait_until(lambda: len(frames) >= 15, timeout_s=10)

    numbers = [read_frame_number(frame.bgr()) for frame in frames[:15]]
    steps = {(after - before) % film.frames for before, after in pairwise(numbers)}
    assert {frame.wh for frame in frames} == {wh}
    assert steps <= {1, 2}
