"""The control protocol against a whole worker: its groups, its storage, its cameras."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.folders import open_folder
from support.tiny_clip import write_tiny_clip
from support.tiny_models import write_tiny_mpta
from support.waiting import wait_until
from support.worker import WorkerProcess, connected, worker
from websockets.asyncio.client import connect

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        write_tiny_clip(folder / "clip.mp4", seconds=5.0)
        write_tiny_mpta(folder / "tiny.mpta")
        yield folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[WorkerProcess]:
    with worker(folder / "data", STREAMS__SUBSCRIPTION_GRACE_SECONDS="1") as running:
        yield running


async def test_two_clients_hold_one_subscription_and_its_results_go_to_both(
    folder: Path, running: WorkerProcess
) -> None:
    clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
    async with (
        RtspServer(same_film(clip)) as cameras,
        connected(running.url) as first,
        connected(running.url) as second,
    ):
        wish = {
            "subscriptionIdentifier": "desk;cam-1",
            "rtspUrl": cameras.urls["cam-1"],
            "modelUrl": str(folder / "tiny.mpta"),
        }
        assert (await first.request("subscribe", **wish))["status"] == "success"
        assert (await second.request("subscribe", **wish))["status"] == "success"
        seen = [await client.wait_for("imageDetection", 2) for client in (first, second)]
        assert cameras.connected("cam-1") == 1
        assert (await first.request("unsubscribe", subscriptionIdentifier="desk;cam-1"))["status"] == "success"
        again = await first.request("unsubscribe", subscriptionIdentifier="desk;cam-1")
        still = await second.wait_for("imageDetection", len(second.payloads("imageDetection")) + 1)

    assert [one["sequence"] for one in seen[0][:2]] == [one["sequence"] for one in seen[1][:2]]
    assert again["error"]["code"] == "not_found"
    assert len(still) > 2


async def test_live_detections_go_to_the_client_that_asked_for_them(folder: Path, running: WorkerProcess) -> None:
    clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
    async with RtspServer(same_film(clip)) as cameras, connected(running.url) as quiet, connected(running.url) as live:
        wish = {
            "subscriptionIdentifier": "desk;cam-2",
            "rtspUrl": cameras.urls["cam-1"],
            "modelUrl": str(folder / "tiny.mpta"),
        }
        await quiet.request("subscribe", **wish)
        await live.request("subscribe", **wish, liveDetections=True)
        await live.wait_for("imageDetection", 8)

    assert any(not one["final"] and "sequence" not in one for one in live.payloads("imageDetection"))
    assert all(one["final"] for one in quiet.payloads("imageDetection"))


async def test_a_subscription_outlives_its_client_by_the_grace_time_and_then_ends(
    folder: Path, running: WorkerProcess
) -> None:
    clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
    async with RtspServer(same_film(clip)) as cameras, connected(running.url) as witness:
        async with connected(running.url) as client:
            await client.request(
                "subscribe",
                subscriptionIdentifier="desk;cam-3",
                rtspUrl=cameras.urls["cam-1"],
                modelUrl=str(folder / "tiny.mpta"),
            )

        async def cameras_now() -> set[str]:
            report = await witness.request("requestState")
            return {one["subscriptionIdentifier"] for one in report["payload"]["cameraConnections"]}

        right_after = await cameras_now()

        async def has_ended() -> bool:
            return "desk;cam-3" not in await cameras_now()

        await wait_until(has_ended, timeout_s=5)

    assert "desk;cam-3" in right_after


async def test_one_camera_has_one_address(folder: Path, running: WorkerProcess) -> None:
    archive = str(folder / "tiny.mpta")
    async with connected(running.url) as client:
        await client.request(
            "subscribe", subscriptionIdentifier="a;cam-4", rtspUrl="rtsp://127.0.0.1:9/one", modelUrl=archive
        )
        other = await client.request(
            "subscribe", subscriptionIdentifier="b;cam-4", rtspUrl="rtsp://127.0.0.1:9/two", modelUrl=archive
        )
        await client.request("unsubscribe", subscriptionIdentifier="a;cam-4")

    assert (other["error"]["code"], other["error"]["field"]) == ("invalid_field", "rtspUrl")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("no JSON", "invalid_json"),
        ('{"type": "dance"}', "unknown_type"),
        ('{"type": "subscribe", "payload": {"subscriptionIdentifier": "no camera"}}', "invalid_field"),
        ('{"type": "requestState", "payload": {"x": "' + "y" * 2**20 + '"}}', "too_large"),
    ],
)
async def test_a_wrong_message_gets_an_error_and_the_connection_stays(
    running: WorkerProcess, text: str, code: str
) -> None:
    async with connect(running.url) as socket:
        await socket.send(text)
        while f'"{code}"' not in (reply := str(await asyncio.wait_for(socket.recv(), 5))):
            assert '"stateReport"' in reply  # the heartbeat of before
        await socket.send('{"type": "requestState", "requestId": "after"}')
        while '"after"' not in str(await asyncio.wait_for(socket.recv(), 5)):
            pass


async def test_a_worker_that_ends_takes_leave_of_its_clients(running: WorkerProcess) -> None:
    """The last one here: the worker of all the others ends with it."""
    async with connect(running.url) as socket:
        ended = asyncio.create_task(asyncio.to_thread(running.stop))
        async for _ in socket:
            pass
        assert socket.close_code == 1001
        assert await ended == 0
