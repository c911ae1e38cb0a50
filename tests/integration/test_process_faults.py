"""Processes die, and nothing is lost or doubled: main with kill -9, one group of two with SIGSEGV."""

import asyncio
import json
import os
import random
import signal
import sqlite3
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.folders import open_folder
from support.tiny_clip import Square, write_tiny_clip
from support.tiny_models import tiny_pipeline, write_tiny_mpta
from support.waiting import wait_until
from support.worker import Client, WorkerProcess, connected, stored

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180)]

_GOP_S = 1.0
_CAMERAS = 4
_KILLS = 4


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def write_busy_clip(path: Path) -> None:
    """Vehicles pass all the time; one stays parked, also while the clip begins anew."""
    passing = [
        Square(
            "red",
            (60.0, 40.0 + 70 * lane),
            (150.0, 0.0),
            first_s=0.6 * lane + 2.4 * turn,
            last_s=0.6 * lane + 2.4 * turn + 2.2,
        )
        for turn in range(3)
        for lane in range(1, 4)
    ]
    parked = Square("green", (560.0, 310.0))
    write_tiny_clip(path, squares=[*passing, parked], seconds=9.0, gop=10)


def write_archive_without_unique_key(path: Path) -> None:
    """No primary key: a record written twice would be two rows."""
    tables = {"tiny_visits": tiny_pipeline()["pipeline"]["tables"]["tiny_visits"] | {"record_id": "uuid"}}
    write_tiny_mpta(path, targetFps=10, tables=tables)


async def watch(client: Client, cameras: RtspServer, archive: Path) -> None:
    for camera_id, url in cameras.urls.items():
        reply = await client.request(
            "subscribe", subscriptionIdentifier=f"gate;{camera_id}", rtspUrl=url, modelUrl=str(archive)
        )
        assert reply["status"] == "success", reply


def accepted_records(spool: Path) -> set[str]:
    """The records whose creation waits in a dead worker's spool."""
    with closing(sqlite3.connect(spool)) as connection:
        rows = connection.execute("SELECT visit_id FROM entries WHERE kind = 'CreateRecord'")
        return {str(visit_id) for (visit_id,) in rows}


async def test_kill_9_of_main_loses_and_doubles_nothing(folder: Path) -> None:
    write_busy_clip(folder / "clip.mp4")
    write_archive_without_unique_key(folder / "tiny.mpta")
    clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
    rng = random.Random(7)
    promised: set[str] = set()
    async with RtspServer(same_film(clip, _CAMERAS)) as cameras:
        for _ in range(_KILLS):
            worker = await asyncio.to_thread(WorkerProcess, folder / "data")
            async with connected(worker.url) as client:
                await watch(client, cameras, folder / "tiny.mpta")
                await client.wait_for("imageDetection", 2 * _CAMERAS)
                await asyncio.sleep(rng.uniform(0.0, 1.0))  # any moment may be the last
                await asyncio.to_thread(worker.kill)
            promised |= {result["recordId"] for result in client.payloads("imageDetection")}
            promised |= accepted_records(folder / "data" / "spool.sqlite")

        worker = await asyncio.to_thread(WorkerProcess, folder / "data")
        with worker:
            await check_rows(worker, promised)
            assert await asyncio.to_thread(worker.stop) == 0


async def check_rows(worker: WorkerProcess, promised: set[str]) -> None:
    async with stored(worker.services()) as (database, redis):

        async def missing() -> set[str]:
            rows = await database.fetch("SELECT record_id::text FROM tiny_visits")
            return promised - {row[0] for row in rows}

        async def all_there() -> bool:
            return not await missing()

        await wait_until(all_there, timeout_s=10)
        rows = await database.fetch("SELECT record_id::text AS id, camera_id, class_name FROM tiny_visits")
        keys: list[Any] = await redis.keys("tiny:gate:*")
        images = {key.decode().split(":")[2] for key in keys}

    counts = Counter(row["id"] for row in rows)
    assert len(promised) >= _KILLS * _CAMERAS
    assert [id_ for id_, count in counts.items() if count > 1] == []
    assert promised - images == set()
    parked = Counter(row["camera_id"] for row in rows if row["class_name"] == "green")
    assert parked == {f"cam-{n}": 1 for n in range(1, _CAMERAS + 1)}  # adopted after each restart


def health(worker: WorkerProcess) -> dict[str, Any]:
    with urllib.request.urlopen(f"{worker.http_url}health", timeout=10) as response:  # noqa: S310
        content: dict[str, Any] = json.loads(response.read())
    return content


def frames_of(client: Client, camera_id: str) -> int:
    return sum(one["cameraId"] == camera_id and not one["final"] for one in client.payloads("imageDetection"))


async def frames_in(client: Client, camera_id: str, seconds: float) -> int:
    before = frames_of(client, camera_id)
    await asyncio.sleep(seconds)
    return frames_of(client, camera_id) - before


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
            for camera_id, url in cameras.urls.items():
                await client.request(
                    "subscribe",
                    subscriptionIdentifier=f"gate;{camera_id}",
                    rtspUrl=url,
                    modelUrl=str(folder / "tiny.mpta"),
                    liveDetections=True,
                )
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
