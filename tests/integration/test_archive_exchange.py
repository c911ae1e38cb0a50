"""Archives at an address, with a whole worker: loaded once for all, exchanged under load when they change."""

import asyncio
import re
import urllib.request
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
from support.folders import open_folder
from support.http_archives import ArchiveServer, serving
from support.tiny_clip import Square, write_tiny_clip
from support.tiny_models import DETECTOR_CLASSES, write_tiny_mpta
from support.waiting import wait_until
from support.worker import Client, WorkerProcess, connected, worker

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film

_CAMERAS: Final = 4
_SUBSCRIPTIONS: Final = 50
_CLIENTS: Final = 10
_PATH: Final = "/models/gate.mpta"
_MIB: Final = 1 << 20
_SQUARES: Final = (Square("red", (100.0, 200.0)), Square("green", (450.0, 200.0)))


@pytest.fixture
async def cameras(tmp_path: Path) -> AsyncIterator[RtspServer]:
    film = write_tiny_clip(tmp_path / "film.mp4", squares=_SQUARES, fps=10, seconds=2)
    async with RtspServer(same_film(Clip.load(film.path), _CAMERAS)) as running:
        yield running


@pytest.fixture
async def site() -> AsyncIterator[ArchiveServer]:
    async with serving() as running:
        yield running


def archive(folder: Path, version: int, **overrides: Any) -> bytes:
    """An archive whose detector calls its classes ``v<version> red`` and so on; it writes nothing."""
    names = [f"v{version} {name}" for name in DETECTOR_CLASSES]
    quiet: dict[str, Any] = {"actions": [], "parallelActions": [], "targetFps": 10}
    wanted = {"modelId": f"gate_v{version}", "classes": names, "triggerClasses": [], "expectedClasses": names[:2]}
    return write_tiny_mpta(folder / f"v{version}.mpta", **quiet | wanted | overrides).read_bytes()


def metric(running: WorkerProcess, name: str, **labels: str) -> float:
    """Add up the samples of one metric that bear these labels."""
    with urllib.request.urlopen(running.http_url + "metrics", timeout=10) as response:  # noqa: S310 - the worker's own
        text = response.read().decode()
    samples = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(float(value) for found, value in samples if all(one in found for one in wanted))


def group_rss(running: WorkerProcess) -> int:
    """The memory of the process that analyses, bytes: the largest of the worker's children that is one of its own."""
    children = psutil.Process(running.process.pid).children()
    return max(one.memory_info().rss for one in children if "spawn_main" in " ".join(one.cmdline()))


async def subscribe(client: Client, cameras: RtspServer, site: ArchiveServer, number: int, **rest: Any) -> None:
    camera_id = f"cam-{number % _CAMERAS + 1}"
    reply = await client.request(
        "subscribe",
        subscriptionIdentifier=f"desk-{number};{camera_id}",
        rtspUrl=cameras.urls[camera_id],
        modelUrl=site.url(_PATH),
        **rest,
    )
    assert reply["status"] == "success", reply


async def test_fifty_subscriptions_share_a_download_a_compilation_and_the_memory_of_one(
    tmp_path: Path, cameras: RtspServer, site: ArchiveServer
) -> None:
    site.put(_PATH, archive(tmp_path, 1), etag='"1"')
    with open_folder() as folder, worker(folder / "data") as running:
        async with AsyncExitStack() as connections:
            clients = [await connections.enter_async_context(connected(running.url)) for _ in range(_CLIENTS)]
            wishes = [partial(subscribe, clients[n % _CLIENTS], cameras, site, n) for n in range(_SUBSCRIPTIONS)]
            await asyncio.gather(*(wish() for wish in wishes[:_CAMERAS]))
            await asyncio.sleep(2)
            few, models = group_rss(running), metric(running, "detector_worker_models_memory_bytes")
            await asyncio.gather(*(wish() for wish in wishes[_CAMERAS:]))
            await wait_until(lambda: metric(running, "detector_worker_models", state="in use") == 2)
            await asyncio.sleep(2)
            many = group_rss(running)

            assert site.answers.count(200) == 1, "one download"
            assert metric(running, "detector_worker_model_events_total", event="load") == 2, "detector and classifier"
            assert metric(running, "detector_worker_models_memory_bytes") == models
    lane_bytes = (many - few) / (_SUBSCRIPTIONS - _CAMERAS)
    print(f"\n4 subscriptions {few / _MIB:.0f} MiB, 50 {many / _MIB:.0f} MiB: {lane_bytes / 1024:.0f} KiB a lane")  # noqa: T201 - what a reader wants to see
    assert lane_bytes < 2.5 * _MIB


async def test_an_archive_is_exchanged_under_load_and_nothing_fails(
    tmp_path: Path, cameras: RtspServer, site: ArchiveServer
) -> None:
    site.put(_PATH, archive(tmp_path, 1), etag='"1"')
    settings = {"PIPELINES__REFRESH_SECONDS": "0.5"}
    with open_folder() as folder, worker(folder / "data", **settings) as running:
        async with connected(running.url) as client:
            for number in range(_CAMERAS):
                await subscribe(client, cameras, site, number, liveDetections=True)
            await wait_until(lambda: len(seen_by_camera(client)) == _CAMERAS, timeout_s=20)
            for version in (2, 3):
                await asyncio.sleep(2)
                site.put(_PATH, archive(tmp_path, version), etag=f'"{version}"')
                await wait_until(partial(is_used_by_all, client, version), timeout_s=20)
            await asyncio.sleep(1)
            results = client.payloads("imageDetection")
            assert metric(running, "detector_worker_models", state="in use") == 2, "the old ones are let go"

        log = "\n".join(running.output)
    for camera_id, versions in seen_by_camera(client).items():
        assert versions == sorted(versions), f"{camera_id} never goes back"
        assert set(versions) == {1, 2, 3}
    for result in results:
        version = result["modelInfo"]["pipelineId"].removeprefix("gate_v")
        names = {one["className"] for one in result["detections"]}
        assert names == {f"v{version} red", f"v{version} green"} or result["final"], "each frame by one whole model"
        assert result["status"] != "failed"
    assert "Traceback" not in log
    assert "ERROR" not in log


async def test_a_broken_archive_at_the_address_leaves_the_one_in_use(
    tmp_path: Path, cameras: RtspServer, site: ArchiveServer
) -> None:
    site.put(_PATH, archive(tmp_path, 1), etag='"1"')
    settings = {"PIPELINES__REFRESH_SECONDS": "0.5"}
    with open_folder() as folder, worker(folder / "data", **settings) as running:
        async with connected(running.url) as client:
            await subscribe(client, cameras, site, 0, liveDetections=True)
            await client.wait_for("imageDetection")
            site.put(_PATH, archive(tmp_path, 2, modelFile="absent.onnx"), etag='"2"')
            await wait_until(lambda: any("is not exchanged" in line for line in running.output), timeout_s=15)
            count = len(client.payloads("imageDetection"))
            await client.wait_for("imageDetection", count + 10)
            assert newest_versions(client) == {1}

            site.put(_PATH, archive(tmp_path, 3), etag='"3"')
            await wait_until(lambda: newest_versions(client) == {3}, timeout_s=15)
        told = [line for line in running.output if "is not exchanged" in line]
    assert len(told) == 1
    assert "absent.onnx" in told[0]


async def test_a_worker_starts_with_the_last_archive_while_the_server_is_away(
    tmp_path: Path, cameras: RtspServer, site: ArchiveServer
) -> None:
    served = site.put(_PATH, archive(tmp_path, 1), etag='"1"')
    with open_folder() as folder:
        for status in (200, 503):
            served.status = status
            with worker(folder / "data") as running:
                async with connected(running.url) as client:
                    await subscribe(client, cameras, site, 0, liveDetections=True)
                    await client.wait_for("imageDetection")


def seen_by_camera(client: Client) -> dict[str, list[int]]:
    """The archive's version of each result, by camera, in order."""
    versions: dict[str, list[int]] = defaultdict(list)
    for result in client.payloads("imageDetection"):
        versions[result["cameraId"]].append(int(result["modelInfo"]["pipelineId"].removeprefix("gate_v")))
    return versions


def is_used_by_all(client: Client, version: int) -> bool:
    return newest_versions(client) == {version}


def newest_versions(client: Client) -> set[int]:
    return {versions[-1] for versions in seen_by_camera(client).values()}
