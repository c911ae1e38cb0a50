"""Films of scenes: made by real processes, served to real readers, and gone without a trace when nobody waits."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Final

import av
import psutil
import pytest
from support.command_line import call_here
from support.tiny_clip import write_tiny_clip
from support.waiting import wait_until, wait_until_sync

from detector_worker.cli.films import film_cache, make_films
from detector_worker.core.exceptions import ConfigurationError, ServiceError
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.film import FilmOrder

COMMAND: Final = (sys.executable, "-P", "-m", "detector_worker", "simulate")
LONG: Final = 50
"""Vehicles whose film takes a minute at least."""


def short(camera: int) -> FilmOrder:
    return FilmOrder(seed=3, camera=camera, vehicles=1, fps=5.0, shortest_stop_s=1.0, longest_stop_s=2.0)


def renderers(parent: int | None = None) -> list[psutil.Process]:
    """The processes that a pool has started; the one that tracks shared memory ends with its parent."""
    children = psutil.Process(parent).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.fixture(autouse=True)
async def _no_renderer_is_left() -> AsyncIterator[None]:
    yield
    assert renderers() == []


@pytest.mark.slow
async def test_each_film_comes_when_it_is_finished_and_progress_ends_at_1(tmp_path: Path) -> None:
    orders = [short(1), short(2)]
    told: dict[FilmOrder, list[float]] = {order: [] for order in orders}

    async with aclosing(
        make_films(orders, cache=tmp_path / "films", progress=lambda order, share: told[order].append(share))
    ) as films:
        made = {film.truth.camera_id: film async for film in films}

    assert sorted(made) == ["cam-1", "cam-2"]
    for film in made.values():
        clip = await asyncio.to_thread(Clip.load, film.path)
        assert clip.duration_s == pytest.approx(film.truth.duration_s, abs=0.2)
        assert len(film.truth.vehicles) == 1
    for shares in told.values():
        assert shares == sorted(shares)
        assert shares[-1] == 1.0


@pytest.mark.slow
async def test_a_short_film_does_not_wait_for_a_long_one(tmp_path: Path) -> None:
    orders = [FilmOrder(seed=3, camera=1, vehicles=LONG), short(2)]

    async with aclosing(make_films(orders, cache=tmp_path, progress=lambda *_: None)) as films:
        first = await anext(films)
        began_s = time.monotonic()

    assert first.truth.camera_id == "cam-2"
    assert time.monotonic() - began_s < 5


async def test_a_cancelled_rendering_ends_at_once(tmp_path: Path) -> None:
    orders = [FilmOrder(seed=3, camera=camera, vehicles=LONG) for camera in (1, 2, 3)]
    shares: list[float] = []

    async def render() -> None:
        async with aclosing(
            make_films(orders, cache=tmp_path, progress=lambda _, share: shares.append(share))
        ) as films:
            async for _ in films:
                pass

    rendering = asyncio.create_task(render())
    await wait_until(lambda: any(shares), timeout_s=40)
    began_s = time.monotonic()
    rendering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rendering

    assert time.monotonic() - began_s < 5


async def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(ConfigurationError, match="file"):
        async for _ in make_films([short(1)], cache=tmp_path / "file" / "films", progress=lambda *_: None):
            pass


async def test_a_renderer_that_is_killed_is_told(tmp_path: Path) -> None:
    async def kill_one() -> None:
        await wait_until(renderers, timeout_s=20)
        renderers()[0].kill()

    killing = asyncio.create_task(kill_one())
    orders = [FilmOrder(seed=3, camera=camera, vehicles=LONG) for camera in (1, 2)]
    with pytest.raises(ServiceError, match="died"):
        async for _ in make_films(orders, cache=tmp_path, progress=lambda *_: None):
            pass
    await killing


def test_films_are_kept_in_the_accounts_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert film_cache() == tmp_path / "detector-worker" / "films"


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=os.environ | {"XDG_CACHE_HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_simulate_serves_scenes_with_their_truth(tmp_path: Path) -> None:
    scene = ("--scene", "crowded", "--cameras", "2", "--seed", "5", "--vehicles", "1")  # no film is shorter
    with start(tmp_path, *scene, "--snapshots") as process:
        try:
            assert process.stdout is not None
            cameras = json.loads(process.stdout.readline())
            first_s = time.time()
            with av.open(cameras[1]["rtsp_url"], options={"rtsp_transport": "tcp"}, timeout=(5, 5)) as container:
                picture = next(container.decode(video=0))
            snapshot = fetch(cameras[1]["snapshot_url"])
            told = json.loads(fetch(cameras[1]["truth_url"]))
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
        finally:
            process.kill()

    assert process.returncode == 0
    assert [camera["camera_id"] for camera in cameras] == ["cam-1", "cam-2"]
    assert (told["truth"]["camera_id"], told["truth"]["seed"]) == ("cam-2", 5)
    assert told["truth"]["wh"] == [picture.width, picture.height]
    sent_s, film_s = told["sent"][0]
    assert first_s <= sent_s <= first_s + 5
    assert film_s == 0.0
    assert told["sent"][-1][1] <= time.time() - first_s + 1  # the snapshot is of the same film
    assert snapshot.startswith(b"\xff\xd8")
    assert "(2 of 2)" in errors


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own
        content: bytes = answer.read()
    return content


def test_simulate_serves_a_video_over_rtsp_and_as_snapshots_until_ctrl_c(tmp_path: Path) -> None:
    clip = write_tiny_clip(tmp_path / "clip.mp4", seconds=1)
    with start(tmp_path, "--video", str(clip.path), "--cameras", "2", "--snapshots", "--json") as process:
        try:
            assert process.stdout is not None
            cameras = json.loads(process.stdout.readline())
            with av.open(cameras[1]["rtsp_url"], options={"rtsp_transport": "tcp"}, timeout=(5, 5)) as container:
                first = next(container.decode(video=0))
            picture = fetch(cameras[1]["snapshot_url"])
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
        finally:
            process.kill()

    assert [sorted(camera) for camera in cameras] == [["camera_id", "rtsp_url", "snapshot_url"]] * 2
    assert [camera["camera_id"] for camera in cameras] == ["cam-1", "cam-2"]
    assert (first.width, first.height) == (640, 384)
    assert picture.startswith(b"\xff\xd8")
    assert (process.returncode, errors) == (0, "")


def test_simulated_cameras_suffer_from_the_faults_that_are_asked_for(tmp_path: Path) -> None:
    clip = write_tiny_clip(tmp_path / "clip.mp4", seconds=1)
    faults = ("--fault", "not-found", "--snapshots", "--snapshot-fault", "server-error")
    with start(tmp_path, "--video", str(clip.path), *faults) as process:
        try:
            assert process.stdout is not None
            (camera,) = json.loads(process.stdout.readline())
            with pytest.raises(av.HTTPNotFoundError):
                av.open(camera["rtsp_url"], options={"rtsp_transport": "tcp"}, timeout=(5, 5))
            with pytest.raises(urllib.error.HTTPError) as refusal:
                fetch(camera["snapshot_url"])
            refusal.value.close()
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=10)

    assert refusal.value.code == 500
    assert process.returncode == 0


@pytest.mark.parametrize("options", [("--snapshot-port", "1"), ("--snapshot-fault", "hang")])
def test_options_of_snapshots_need_them(tmp_path: Path, options: tuple[str, ...]) -> None:
    result = call_here("simulate", *options, cwd=tmp_path)

    assert (result.returncode, result.stdout) == (2, "")
    assert "--snapshots" in result.stderr


def test_ctrl_c_ends_the_rendering_at_once_and_leaves_no_process(tmp_path: Path) -> None:
    with start(tmp_path, "--cameras", "3", "--vehicles", str(LONG)) as process:
        try:
            wait_until_sync(lambda: renderers(process.pid), timeout_s=30)
            children = psutil.Process(process.pid).children(recursive=True)
            began_s = time.monotonic()
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            output, errors = process.communicate(timeout=10)
        finally:
            process.kill()

    assert time.monotonic() - began_s < 5
    assert psutil.wait_procs(children, timeout=2)[1] == []
    assert output == ""
    assert "Traceback" not in errors


def test_a_killed_simulator_leaves_no_renderer(tmp_path: Path) -> None:
    with start(tmp_path, "--cameras", "3", "--vehicles", str(LONG)) as process:
        wait_until_sync(lambda: renderers(process.pid), timeout_s=30)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate(timeout=10)

    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_a_video_has_no_seed(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()

    result = call_here("simulate", "--video", "clip.mp4", "--seed", "1", cwd=tmp_path)

    assert (result.returncode, result.stdout) == (2, "")
    assert "--video" in result.stderr
    assert "--seed" in result.stderr
