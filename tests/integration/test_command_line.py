"""The commands as people type them: what they print, how they end, and what they leave behind."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import psutil
import pytest
from support.command_line import call_here
from support.folders import open_folder
from support.tiny_clip import Square, write_tiny_clip
from support.tiny_models import write_tiny_mpta
from support.worker import connected, stored, worker

COMMAND = (sys.executable, "-P", "-m", "detector_worker")
SQUARES = (
    Square("red", (100.0, 60.0), (120.0, 0.0), first_s=0.5, last_s=4.0),
    Square("blue", (500.0, 280.0), (-120.0, 0.0), first_s=1.0, last_s=5.0),
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    before = set(psutil.Process().children(recursive=True))
    result = subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    left = set(psutil.Process().children(recursive=True)) - before
    assert left == set(), "a process was left behind"
    return result


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what, where and how to mend it."""
    assert result.returncode == 1, result
    assert result.stdout == ""
    line = result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert line.startswith("detector-worker: ")
    return line


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_file_becomes_visits_rows_and_an_annotated_clip(folder: Path) -> None:
    write_tiny_clip(folder / "clip.mp4", squares=SQUARES, seconds=6.0)
    write_tiny_mpta(folder / "tiny.mpta")

    result = call("run", "clip.mp4", "--mpta", "tiny.mpta", "--json", "--annotate", "seen.mp4", cwd=folder)

    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout)
    assert outcome["frames"] == outcome["analysed"] + outcome["still"] == 60
    assert outcome["frames_per_s"] > 0
    red, blue = outcome["visits"]
    assert (red["class_name"], blue["class_name"]) == ("red", "blue")
    assert red["branches"]["tiny_hue_v1"]["hue"] == "red"
    assert red["fields"]["hue"] == "red"
    assert red["status"] == "completed"
    assert red["first_s"] == pytest.approx(0.5, abs=0.2)
    assert red["last_s"] == pytest.approx(4.0, abs=0.2)
    with av.open(str(folder / "seen.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == outcome["analysed"]
    assert sorted(path.name for path in folder.iterdir()) == ["clip.mp4", "seen.mp4", "tiny.mpta"]


async def test_a_files_records_stay_in_the_data_folder_that_is_named(folder: Path) -> None:
    write_tiny_clip(folder / "clip.mp4", squares=SQUARES, seconds=6.0)
    write_tiny_mpta(folder / "tiny.mpta")
    result = await asyncio.to_thread(
        call, "run", "clip.mp4", "--mpta", "tiny.mpta", "--json", "--data-dir", "kept", cwd=folder
    )
    records = {visit["record_id"] for visit in json.loads(result.stdout)["visits"]}

    with worker(folder / "kept"):
        told = await asyncio.to_thread(call, "services", "--json", "--data-dir", "kept", cwd=folder)
        async with stored(json.loads(told.stdout)) as (database, _):
            rows = await database.fetch("SELECT record_id::text AS id, hue FROM tiny_visits")

    assert {row["id"] for row in rows} == records
    assert {row["hue"] for row in rows} == {"red", "blue"}


def test_a_busy_port_is_named(folder: Path) -> None:
    with listening() as port:
        line = complaint(call("serve", "--port", str(port), "--data-dir", "data", cwd=folder))

    assert str(port) in line
    assert "--port" in line


def test_a_data_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    (folder / "file").write_text("in the way")

    line = complaint(call("serve", "--port", "0", "--data-dir", "file/data", cwd=folder))

    assert "file/data" in line
    assert "--data-dir" in line


def test_every_wrong_setting_is_told_at_once_with_key_value_and_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "config.json").write_text('{"engine": {"groups": 0}, "servr": {}}')

    monkeypatch.setenv("DETECTOR_WORKER_STREAMS__TARGET_FPS", "fast")

    line = complaint(call_here("serve", cwd=folder))

    for part in ("engine.groups", "0", "greater than or equal to 1", "servr", "server", "streams.target_fps", "fast"):
        assert part in line


def test_a_file_that_is_no_video_is_named(folder: Path) -> None:
    (folder / "clip.mp4").write_text("no video")
    write_tiny_mpta(folder / "tiny.mpta")

    assert "clip.mp4" in complaint(call("run", "clip.mp4", "--mpta", "tiny.mpta", cwd=folder))


def test_services_of_a_folder_without_a_worker_end_with_1(folder: Path) -> None:
    assert "detector-worker serve" in complaint(call_here("services", "--data-dir", "data", cwd=folder))


async def test_a_second_worker_on_one_folder_is_refused_and_the_first_goes_on(folder: Path) -> None:
    with worker(folder / "data") as first:
        second = await asyncio.to_thread(
            subprocess.run,
            [*COMMAND, "serve", "--port", "0", "--data-dir", str(folder / "data")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        async with connected(first.url) as client:
            state = await client.request("requestState")

    assert second.returncode == 1
    assert str(first.process.pid) in second.stderr
    assert "--data-dir" in second.stderr
    assert state["status"] == "success"


def test_help_shows_examples() -> None:
    for command in ("serve", "run", "simulate", "services", "demo"):
        result = call_here(command, "--help")
        assert result.returncode == 0
        assert "Example: " in result.stdout
