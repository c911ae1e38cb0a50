"""Processes die, and nothing is lost or doubled: main with kill -9, one group of two with SIGSEGV."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.busy_site import (
    frames_in,
    frames_of,
    health,
    promised_records,
    watch,
    write_archive_without_unique_key,
    write_busy_clip,
)
from support.folders import open_folder
from support.storage_faults.dead_spools import accepted_records, integrity
from support.tiny_models import write_tiny_mpta
from support.waiting import wait_until
from support.worker import WorkerProcess, connected, stored

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

_GOP_S = 1.0
_SITES = 2
_CAMERAS = 2
"""Of each site."""
_LONGEST_LIFE_S = 2.0
"""Once its cameras are watched."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
async def test_kill_9_of_main_loses_and_doubles_nothing(folder: Path, kills: int) -> None:
    """Two workers at a time, since each takes most of its short life to start."""
    write_busy_clip(folder / "clip.mp4")
    write_archive_without_unique_key(folder / "tiny.mpta")
    clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
    sites = [folder / f"site-{number}" for number in range(_SITES)]
    async with asyncio.TaskGroup() as tasks:
        for seed, site in enumerate(sites):
            site.mkdir(mode=0o711)
            tasks.create_task(
                kill_again_and_again(site, clip, folder / "tiny.mpta", kills // _SITES, random.Random(seed))
            )


async def kill_again_and_again(site: Path, clip: Clip, archive: Path, kills: int, rng: random.Random) -> None:
    data_dir, spool = site / "data", site / "data" / "spool.sqlite"
    promised: set[str] = set()
    async with RtspServer(same_film(clip, _CAMERAS)) as cameras:
        for _ in range(kills):
            worker = await asyncio.to_thread(WorkerProcess, data_dir)
            async with connected(worker.url) as client:
                await watch(client, cameras, archive)
                await asyncio.sleep(rng.uniform(0.0, _LONGEST_LIFE_S))  # any moment may be the last
                await asyncio.to_thread(worker.kill)
            promised |= promised_records(client)
            promised |= accepted_records(spool)
            assert integrity(spool) == "ok"

        worker = await asyncio.to_thread(WorkerProcess, data_dir)
        with worker:
            async with connected(worker.url) as client:
                await watch(client, cameras, archive)
                await client.wait_for("imageDetection", 2 * _CAMERAS)
                promised |= promised_records(client)
                await check_rows(worker, promised)
            assert await asyncio.to_thread(worker.stop) == 0
    assert len(promised) >= kills


async def check_rows(worker: WorkerProcess, promised: set[str]) -> None:
    async with stored(worker.services()) as (database, redis):

        async def all_there() -> bool:
            rows = await database.fetch("SELECT record_id::text FROM tiny_visits")
            keys: list[Any] = await redis.keys("tiny:gate:*")
            return promised <= {row[0] for row in rows} & {key.decode().split(":")[2] for key in keys}

        await wait_until(all_there, timeout_s=10)
        rows = await database.fetch("SELECT record_id::text AS id, camera_id, class_name FROM tiny_visits")

    counts = Counter(row["id"] for row in rows)
    assert [id_ for id_, count in counts.items() if count > 1] == []
    parked = Counter(row["camera_id"] for row in rows if row["class_name"] == "green")
    assert parked == {f"cam-{n}": 1 for n in range(1, _CAMERAS + 1)}  # adopted after each restart


@pytest.mark.parametrize(
    ("fault", "seen_within_s"), [(signal.SIGSEGV, 0.0), (signal.SIGSTOP, 11.0)], ids=["crashes", "hangs"]
)
async def test_a_group_that_fails_harms_no_other_and_is_back_in_time(
    folder: Path, fault: signal.Signals, seen_within_s: float
) -> None:
    write_busy_clip(folder / "clip.mp4")
    write_tiny_mpta(folder / "tiny.mpta", targetFps=5)
    clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
    worker = await asyncio.to_thread(WorkerProcess, folder / "data", ENGINE__GROUPS="2")
    with worker:
        async with RtspServer(same_film(clip, 2)) as cameras, connected(worker.url) as client:
            await watch(client, cameras, folder / "tiny.mpta", liveDetections=True)
            await wait_until(lambda: min(frames_of(client, id_) for id_ in cameras.urls) >= 5, timeout_s=15)
            state = await asyncio.to_thread(health, worker)
            group_of = {camera["camera_id"]: camera["group"] for camera in state["cameras"].values()}
            assert group_of["cam-1"] != group_of["cam-2"]

            before = await frames_in(client, "cam-2", 6.0)
            pid = state["components"][group_of["cam-1"]]["pid"]
            os.kill(pid, fault)
            seen = frames_of(client, "cam-1")
            during = asyncio.create_task(frames_in(client, "cam-2", 6.0))
            await wait_until(lambda: frames_of(client, "cam-1") > seen + 1, timeout_s=seen_within_s + 8.0 + _GOP_S)
            after = await during
            state = await asyncio.to_thread(health, worker)

    assert after >= 0.9 * before, f"{after} frames after the fault, {before} before"
    assert state["components"][group_of["cam-1"]]["pid"] != pid


async def test_a_camera_whose_archive_was_away_when_its_group_came_back_is_tried_again(folder: Path) -> None:
    write_busy_clip(folder / "clip.mp4")
    archive = folder / "tiny.mpta"
    write_tiny_mpta(archive, targetFps=5)
    clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
    worker = await asyncio.to_thread(WorkerProcess, folder / "data")
    with worker:
        async with RtspServer(same_film(clip)) as cameras, connected(worker.url) as client:
            await watch(client, cameras, archive)
            await client.wait_for("imageDetection")
            state = await asyncio.to_thread(health, worker)
            archive.rename(folder / "away.mpta")
            os.kill(state["components"]["group-1"]["pid"], signal.SIGKILL)

            def told() -> list[dict[str, Any]]:
                return [one for one in client.payloads("streamStatus") if "tiny.mpta" in str(one["reason"])]

            await wait_until(told, timeout_s=10)
            (folder / "away.mpta").rename(archive)
            seen = len(client.payloads("streamStatus"))
            await wait_until(
                lambda: "active" in {one["state"] for one in client.payloads("streamStatus")[seen:]},
                timeout_s=told()[0]["retryInSeconds"] + 5,
            )


async def test_a_group_that_hangs_does_not_keep_the_worker_from_stopping(folder: Path) -> None:
    worker = await asyncio.to_thread(WorkerProcess, folder / "data")
    with worker:
        state = await asyncio.to_thread(health, worker)
        os.kill(state["components"]["group-1"]["pid"], signal.SIGSTOP)
        began_s = time.monotonic()
        code = await asyncio.to_thread(worker.stop)

    assert time.monotonic() - began_s <= 10
    assert code == 0


async def test_a_signal_to_the_whole_process_group_ends_no_group_before_its_worker(folder: Path) -> None:
    worker = await asyncio.to_thread(WorkerProcess, folder / "data")
    with worker:
        pid = (await asyncio.to_thread(health, worker))["components"]["group-1"]["pid"]
        os.kill(pid, signal.SIGTERM)
        await asyncio.sleep(1.0)
        state = await asyncio.to_thread(health, worker)
        code = await asyncio.to_thread(worker.stop)

    assert state["components"]["group-1"]["pid"] == pid
    assert code == 0
