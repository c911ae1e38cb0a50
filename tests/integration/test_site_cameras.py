"""A site without a backend: a file of cameras, a worker, and no client at all."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command_line import call_here
from support.folders import open_folder
from support.tiny_clip import Square, write_tiny_clip
from support.tiny_models import write_tiny_mpta
from support.waiting import wait_until
from support.worker import WorkerProcess, stored, worker

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film

pytestmark = pytest.mark.timeout(120)

CANARY = "Kanarienvogel-4711"
SQUARES = (
    Square("red", (100.0, 60.0), (120.0, 0.0), first_s=0.3, last_s=2.0),
    Square("blue", (500.0, 280.0), (-120.0, 0.0), first_s=1.0, last_s=2.8),
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        write_tiny_clip(folder / "clip.mp4", squares=SQUARES, seconds=3.0)
        (folder / "archives").mkdir()
        write_tiny_mpta(folder / "archives" / "tiny.mpta", targetFps=10)
        yield folder


def with_password(url: str, password: str = CANARY) -> str:
    return url.replace("rtsp://", f"rtsp://operator:{password}@")


def call(url: str, content: str | None = None, *, token: str | None = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, data=content.encode() if content else None, headers=headers)  # noqa: S310 - the worker's own address
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - as above
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.loads(exc.read())


async def post(running: WorkerProcess, content: str, *, token: str | None = None) -> tuple[int, Any]:
    return await asyncio.to_thread(call, f"{running.http_url}cameras/import", content, token=token)


async def cameras_of(running: WorkerProcess, *, token: str | None = None) -> dict[str, dict[str, Any]]:
    _, answer = await asyncio.to_thread(call, f"{running.http_url}cameras", token=token)
    return {one["camera"]: one for one in answer["cameras"]}


async def wait_for_state(running: WorkerProcess, camera_id: str, state: str, *, token: str | None = None) -> None:
    async def is_there() -> bool:
        camera = (await cameras_of(running, token=token)).get(camera_id)
        return camera is not None and camera["state"] == state

    await wait_until(is_there, timeout_s=20)


def files_with(text: str, folder: Path) -> set[str]:
    """The names of those files of a data folder that hold a text."""
    ours = [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
    return {path.name for path in ours if text.encode() in path.read_bytes()}


@pytest.mark.slow
async def test_a_file_of_cameras_becomes_records_without_any_client(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
    async with RtspServer(same_film(clip, 3)) as cameras:
        one, two, three = (cameras.urls[f"cam-{number}"] for number in (1, 2, 3))
        file = folder / "archives" / "cameras.yaml"
        file.write_text(
            "archive: tiny.mpta\ncameras:\n"
            f"  gate: {{rtspUrl: '{with_password(one, '${GATE_PW}')}'}}\n"
            f"  yard: {{rtspUrl: '{with_password(two)}', minSize: 20}}\n"
            f"  late: {{rtspUrl: '{one}', archive: missing.mpta}}\n"
        )
        arguments, settings = ("--cameras", str(file)), {"STREAMS__RECONNECT_INTERVAL": "0.5"}
        monkeypatch.setenv("GATE_PW", CANARY)
        with worker(folder / "data", *arguments, **settings) as running:
            async with stored(running.services()) as (database, _):

                async def recorded() -> set[str]:
                    if await database.fetchval("SELECT to_regclass('tiny_visits')") is None:
                        return set()  # no archive is loaded yet
                    rows = await database.fetch("SELECT DISTINCT camera_id FROM tiny_visits WHERE display_id = 'site'")
                    return {row[0] for row in rows}

                async def both_recorded() -> bool:
                    return await recorded() >= {"gate", "yard"}

                await wait_until(both_recorded, timeout_s=30)
                assert cameras.connected("cam-3") == 0

                # One that was refused stops nobody, is told, and comes when its archive does.
                refused = (await cameras_of(running))["late"]
                assert refused["state"] == "refused"
                assert "missing.mpta" in refused["error"]
                write_tiny_mpta(folder / "archives" / "missing.mpta", targetFps=10)
                await wait_for_state(running, "late", "active")

                # An import replaces one camera while the other goes on.
                more = (
                    f"cameras:\n  yard: {{rtspUrl: '{with_password(three)}', archive: {folder}/archives/tiny.mpta}}\n"
                )
                bad_status, bad = await post(running, more + f"  gate: {{rtspUrl: 'ftp://u:{CANARY}@h/'}}\n")
                status, answer = await post(running, more)
                assert (bad_status, status) == (400, 200)
                assert answer == {"cameras": [{"camera": "yard", "status": "replaced"}]}
                await wait_until(lambda: cameras.connected("cam-3") == 1, timeout_s=10)
                await wait_until(lambda: cameras.connected("cam-2") == 0, timeout_s=10)
                await wait_for_state(running, "gate", "active")
                listing = await cameras_of(running)
            report = await asyncio.to_thread(call, f"{running.http_url}health")
            assert report[1]["cameras"]["site;gate"]["errors"] == 0
            assert running.stop() == 0

        # The imported one is back after a restart, and nothing else.
        with worker(folder / "data") as again:
            await wait_until(lambda: cameras.connected("cam-3") == 1, timeout_s=20)
            await wait_for_state(again, "yard", "active")
            kept = await cameras_of(again)
            assert again.stop() == 0

    assert kept.keys() == {"yard"}
    shown = json.dumps([refused, bad, answer, listing, report, kept]) + "\n".join(running.output + again.output)
    assert "***@127.0.0.1" in shown
    assert CANARY not in shown
    assert files_with(CANARY, folder / "data") == {"cameras.yaml"}


async def test_the_operators_file_may_name_any_archive_and_an_import_only_those_that_are_allowed(folder: Path) -> None:
    file, token = folder / "cameras.yaml", "a-token-of-the-operator"
    (folder / "elsewhere").mkdir()
    write_tiny_mpta(folder / "elsewhere" / "other.mpta")
    clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
    async with RtspServer(same_film(clip)) as cameras:
        url = cameras.urls["cam-1"]
        file.write_text(f"cameras:\n  gate: {{rtspUrl: '{url}', archive: archives/tiny.mpta}}\n")
        with worker(folder / "data", "--cameras", str(file), ACCESS__TOKENS=token) as running:
            await wait_for_state(running, "gate", "active", token=token)
            more = f"cameras:\n  yard: {{rtspUrl: '{url}', archive: {folder}/elsewhere/other.mpta}}\n"
            without, _ = await post(running, more)
            status, answer = await post(running, more, token=token)

    assert (without, status) == (401, 200)
    assert answer["cameras"][0]["status"] == "error"
    assert "pipelines.allowed_paths" in answer["cameras"][0]["error"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"cameras:\n  gate: {{rtspURL: 'rtsp://u:{CANARY}@h/'}}\n", "line 2, cameras.gate.rtspURL"),
        (f"cameras: [{CANARY}", "line 2: This is no YAML"),
        (f"cameras:\n  gate:\n    rtspUrl: rtsp://u:${{NOT_SET_ANYWHERE}}{CANARY}@h/\n", "NOT_SET_ANYWHERE"),
    ],
)
def test_a_bad_file_ends_the_start_with_exit_code_2_before_anything_is_started(
    folder: Path, content: str, says: str
) -> None:
    (folder / "cameras.yaml").write_text(content)

    result = call_here("serve", "--cameras", "cameras.yaml", "--port", "0", cwd=folder)

    assert result.returncode == 2
    assert says in result.stderr
    assert CANARY not in result.stdout + result.stderr
    assert not (folder / "data").exists()


def test_a_file_that_is_not_there_is_wrong_usage(folder: Path) -> None:
    result = call_here("serve", "--cameras", "nowhere.yaml", cwd=folder)

    assert result.returncode == 2
    assert "nowhere.yaml" in result.stderr
