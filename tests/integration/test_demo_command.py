"""The demo as a command: what it tells, how it ends, and its own films and archive."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.folders import open_folder
from support.tiny_demo import fetch, quiet_console, run_and_kill
from support.waiting import wait_until_sync
from typer.testing import CliRunner

from detector_worker.cli import _app as app
from detector_worker.cli.demo import command
from detector_worker.cli.demo.command import ARCHIVE, film_orders, snapshot_cameras
from detector_worker.cli.demo.show import Demo, DemoPlan
from detector_worker.cli.films import film_cache, make_films
from detector_worker.simulator.film import FilmOrder

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
@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGINT],
        [signal.SIGINT, signal.SIGINT],
        pytest.param([signal.SIGKILL], marks=pytest.mark.faults),
    ],
)
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
    with started(*COMMAND, "--cameras", "1") as process:  # and one film that is made meanwhile
        (line,) = read_until(process, "page: http://127.0.0.1:")
        page = fetch(line.split()[1])
        read_until(process, "running")
        process.send_signal(signal.SIGINT)
        read_until(process, "Everything has ended.")
        code = process.wait(10)

    assert code == 0
    assert b"Detector Worker" in page
