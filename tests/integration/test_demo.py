"""The demo with everything real; the last tests with its own films and archive too."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from support.folders import open_folder
from support.tiny_clip import Square
from support.tiny_demo import one_by_one, write_tiny_demo_mpta, write_tiny_film
from support.waiting import wait_until, wait_until_sync
from typer.testing import CliRunner

from detector_worker.cli import _app as app
from detector_worker.cli.demo import command
from detector_worker.cli.demo.board import WorkerView
from detector_worker.cli.demo.command import ARCHIVE, film_orders, snapshot_cameras
from detector_worker.cli.demo.report import Report
from detector_worker.cli.demo.show import Demo, DemoPlan
from detector_worker.cli.demo.worker import SupervisedWorker
from detector_worker.cli.films import film_cache, make_films
from detector_worker.core.exceptions import ServiceError
from detector_worker.simulator.film import FilmOrder
from detector_worker.storage.durable_storage import WORKER_LOCK
from detector_worker.storage.folder_lock import FolderLock

COMMAND = (sys.executable, "-P", "-m", "detector_worker", "demo")
SHORT_SEED = 18
"""Its films are short: 20 s where no vehicle stands for more than six."""
TESTS = Path(__file__).parents[1]
FIGURES = """vehicles records missed duplicates brand_correct body_correct plate_correct plate_readable
    images_stored latency_ms"""
needs_archive = pytest.mark.skipif(not ARCHIVE.is_file(), reason="the demo's archive has not been built")


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def quiet_console() -> Console:
    return Console(stderr=True, quiet=True)


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


async def run(demo: Demo) -> Report:
    report = await demo.run()
    assert report is not None
    return report


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
        content: bytes = answer.read()
    return content


async def run_and_kill(demo: Demo, *, when: Callable[[], object]) -> Report:
    """Kill the worker with -9 once ``when`` is true."""
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(run(demo))
        await wait_until(when, timeout_s=60)
        assert demo.board.worker.pid is not None
        os.kill(demo.board.worker.pid, signal.SIGKILL)
    assert demo.board.worker.restarts == 1
    return running.result()


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


@contextmanager
def started(*arguments: str, cwd: Path | None = None) -> Iterator["subprocess.Popen[str]"]:
    """Start a demo; it does not outlive a test that fails."""
    with subprocess.Popen(arguments, cwd=cwd, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: "subprocess.Popen[str]", word: str) -> list[str]:
    """Read what it tells until a line has a word."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if word in line:
            return lines
    raise AssertionError(f"it ended: {lines}")


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return what runs with the folder on its command line."""
    every = psutil.process_iter(["cmdline"])
    return [process for process in every if str(folder) in " ".join(process.info["cmdline"] or ())]


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGKILL]])
def test_with_the_demo_everything_ends(folder: Path, signals: list[signal.Signals]) -> None:
    with started(sys.executable, "-m", "support.tiny_demo", str(folder), cwd=TESTS) as process:
        (pid,) = {int(line.split()[2]) for line in read_until(process, "cam-1: active") if "worker: pid" in line}
        process.send_signal(signals[0])
        if len(signals) > 1:
            read_until(process, "Ending")
            process.send_signal(signals[1])
        code = process.wait(10)

    assert code == (-signal.SIGKILL if signals == [signal.SIGKILL] else 0)
    if signals == [signal.SIGINT]:
        assert "Stopping" in (folder / "worker.log").read_text()  # in order, not killed
    wait_until_sync(lambda: not psutil.pid_exists(pid), timeout_s=10)
    wait_until_sync(lambda: not processes_of(folder), timeout_s=10)


def real_demo(folder: Path, orders: Sequence[FilmOrder]) -> Demo:
    camera_ids = tuple(f"cam-{order.camera}" for order in orders)
    plan = DemoPlan(
        folder=folder,
        archive=ARCHIVE,
        camera_ids=camera_ids,
        snapshot_cameras=snapshot_cameras(camera_ids),
        films=lambda progress: make_films(orders, cache=film_cache(), progress=progress),
        plays_once=True,
    )
    return Demo(plan, quiet_console())


@needs_archive
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_command_records_each_vehicle_once_and_prints_its_figures_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = tuple(replace(order, longest_stop_s=6.0) for order in film_orders(4, seed=SHORT_SEED, cameras=2))
    monkeypatch.setattr(command, "film_orders", lambda *_, **__: orders)  # the same, but no long stops

    result = CliRunner().invoke(app, ["demo", "--vehicles", "4", "--cameras", "2", "--json"], catch_exceptions=False)

    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert list(figures) == FIGURES.split()
    assert list(figures["latency_ms"]) == ["p50", "p95"]
    assert [figures[name] for name in FIGURES.split()[:4]] == [4, 4, 0, 0]
    assert figures["images_stored"] == 8


@needs_archive
@pytest.mark.faults
@pytest.mark.timeout(180)
async def test_a_kill_9_in_the_middle_gives_the_same_counts(folder: Path) -> None:
    orders = film_orders(4, seed=SHORT_SEED, cameras=2, shortest_stop_s=8.0)
    demo = real_demo(folder, [replace(order, longest_stop_s=12.0) for order in orders])

    report = await run_and_kill(demo, when=lambda: demo.board.records)

    assert report.failures == [], report.comparison.explanations
    assert (report.comparison.vehicles, report.comparison.records, report.images_stored) == (4, 4, 8)


@needs_archive
@pytest.mark.slow
def test_the_endless_command_tells_its_page_at_once_and_ends_with_ctrl_c() -> None:
    with started(*COMMAND) as process:
        (line,) = read_until(process, "page: http://127.0.0.1:")
        page = fetch(line.split()[1])
        read_until(process, "running")
        process.send_signal(signal.SIGINT)
        read_until(process, "Everything has ended.")
        code = process.wait(10)

    assert code == 0
    assert b"Detector Worker" in page
