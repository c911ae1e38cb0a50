"""The demo with everything real but its films and archive."""

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from support.folders import open_folder
from support.tiny_clip import Square
from support.tiny_demo import fetch, one_by_one, quiet_console, run, run_and_kill, write_tiny_demo_mpta, write_tiny_film
from support.waiting import wait_until

from detector_worker.cli.demo.board import WorkerView
from detector_worker.cli.demo.show import Demo, DemoPlan
from detector_worker.cli.demo.worker import SupervisedWorker
from detector_worker.core.exceptions import ServiceError
from detector_worker.storage.durable_storage import WORKER_LOCK
from detector_worker.storage.folder_lock import FolderLock


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def tiny_demo(folder: Path, *cameras: Sequence[Square], seconds: float) -> Demo:
    """Prepare films of squares, played once; of several cameras the last gives snapshots."""
    films = [
        write_tiny_film(folder / f"{number}.mp4", squares, camera_id=f"cam-{number}", seconds=seconds)
        for number, squares in enumerate(cameras, start=1)
    ]
    camera_ids = tuple(film.truth.camera_id for film in films)
    archive = write_tiny_demo_mpta(folder / "tiny.mpta")
    snapshot_cameras = frozenset(camera_ids[1:][-1:])
    plan = DemoPlan(folder, archive, camera_ids, one_by_one(*films), snapshot_cameras=snapshot_cameras, plays_once=True)
    return Demo(plan, quiet_console())


@pytest.mark.slow
async def test_every_vehicle_of_every_film_becomes_one_record_with_its_pictures(folder: Path) -> None:
    demo = await asyncio.to_thread(
        tiny_demo,
        folder,
        [
            Square("red", (100.0, 60.0), (30.0, 0.0), first_s=2.0, last_s=6.0),
            Square("blue", (400.0, 250.0), (-20.0, 0.0), first_s=3.0, last_s=8.0),
        ],
        [Square("green", (100.0, 160.0), (30.0, 0.0), first_s=1.0, last_s=6.0)],
        seconds=9.0,
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(run(demo))
        await wait_until(lambda: demo.board.records, timeout_s=40)
        record = demo.board.records[0]
        picture = await asyncio.to_thread(fetch, f"{demo.page_url}record/{record.record_id}/image")
        frame = await asyncio.to_thread(fetch, f"{demo.page_url}image/{record.camera_id}")
    report, found = running.result(), running.result().comparison

    assert report.failures == []
    assert found.explanations == ()
    assert (found.vehicles, found.records, found.brand_correct, report.images_stored) == (3, 3, 3, 6)
    assert len(report.latencies_ms) == 3
    assert min(report.latencies_ms) > 0
    assert {camera.state for camera in demo.board.cameras.values()} == {"played"}
    assert demo._snapshots.urls.keys() == {"cam-2"}
    assert picture.startswith(b"\xff\xd8")
    assert frame.startswith(b"\xff\xd8")


@pytest.mark.faults
@pytest.mark.timeout(120)
async def test_the_counts_do_not_suffer_from_a_kill_9_of_the_worker(folder: Path) -> None:
    squares = [
        Square("red", (100.0, 60.0), first_s=1.0, last_s=12.0),
        Square("blue", (400.0, 60.0), first_s=5.0, last_s=14.0),
        Square("green", (250.0, 250.0), first_s=9.0, last_s=18.0),
    ]
    demo = await asyncio.to_thread(tiny_demo, folder, squares, seconds=20.0)

    report = await run_and_kill(demo, when=lambda: demo.board.records)

    assert report.failures == [], report.comparison.explanations
    assert report.comparison.records == demo.board.cameras["cam-1"].records == 3


async def test_a_worker_that_is_killed_is_started_again_on_the_same_data(folder: Path) -> None:
    views: list[WorkerView] = []
    worker = SupervisedWorker(folder, notify=views.append)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(worker.run())
        first = await asyncio.wait_for(worker.url(), 40)
        pid = views[-1].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: worker.http_url is None)
        second = await asyncio.wait_for(worker.url(), 40)
        running.cancel()

    assert first != second
    assert [(view.state, view.restarts) for view in views] == [
        ("starting", 0),
        ("running", 0),
        ("restarting", 0),
        ("restarting", 1),
        ("running", 1),
    ]
    assert views[2].detail == "died with code -9"
    assert not psutil.pid_exists(views[-1].pid or 0)


async def test_a_worker_that_dies_again_and_again_ends_the_demo_with_its_last_words(folder: Path) -> None:
    worker = SupervisedWorker(folder, notify=lambda _: None)
    worker.data_dir.mkdir()
    lock = FolderLock(worker.data_dir / WORKER_LOCK)
    lock.acquire()
    try:
        with pytest.raises(ServiceError, match=f"died 3 times.*in use by process {os.getpid()}"):
            await worker.run()
    finally:
        lock.release()
