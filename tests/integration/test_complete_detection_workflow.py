"""The main job, end to end: a camera's pictures become rows, pictures, messages and results."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.folders import open_folder
from support.tiny_clip import Square, write_tiny_clip
from support.tiny_models import write_tiny_mpta
from support.waiting import wait_until
from support.worker import WorkerProcess, connected, stored, worker

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film

SQUARES = (
    Square("red", (100.0, 60.0), (120.0, 0.0), first_s=0.5, last_s=4.0),
    Square("blue", (500.0, 280.0), (-120.0, 0.0), first_s=1.5, last_s=5.0),
    Square("green", (300.0, 160.0), (0.0, 10.0), first_s=3.0, last_s=6.5),
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        write_tiny_clip(folder / "clip.mp4", squares=SQUARES, seconds=8.0)
        write_tiny_mpta(folder / "tiny.mpta", targetFps=10)
        yield folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[WorkerProcess]:
    with worker(folder / "data") as running:
        yield running


def http_status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - the worker's own address
            return int(response.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code


async def test_a_camera_becomes_rows_pictures_messages_and_results(folder: Path, running: WorkerProcess) -> None:
    clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
    async with (
        RtspServer(same_film(clip)) as cameras,
        connected(running.url) as client,
        stored(running.services()) as (database, redis),
        redis.pubsub() as listener,
    ):
        await listener.subscribe("tiny:cam-1")
        await client.request("setSessionId", displayIdentifier="display-1", sessionId="shift-7")
        reply = await client.request(
            "subscribe",
            subscriptionIdentifier="display-1;cam-1",
            rtspUrl=cameras.urls["cam-1"],
            modelUrl=str(folder / "tiny.mpta"),
            modelId=102,
            modelName="squares",
        )
        assert reply["status"] == "success", reply
        results = await client.wait_for("imageDetection", 3, timeout_s=30)
        ended = await client.request("unsubscribe", subscriptionIdentifier="display-1;cam-1")
        assert ended["status"] == "success"
        assert client.payloads("streamStatus")[-1]["state"] == "stopped"
        for result in results:
            await check_result(result, database, redis)
        heard = []
        while (message := await listener.get_message(timeout=2.0)) is not None:
            heard.append(message)

    assert {result["detections"][0]["className"] for result in results} == {"red", "green", "blue"}
    assert [result["sequence"] for result in results] == list(range(1, len(results) + 1))
    assert sum(message["type"] == "message" for message in heard) >= 3


async def check_result(result: dict[str, Any], database: Any, redis: Any) -> None:
    color = result["detections"][0]["className"]
    assert result["status"] == "completed"
    assert result["final"] is True
    assert result["sessionId"] == "shift-7"
    assert result["modelInfo"] == {"modelId": 102, "modelName": "squares", "pipelineId": "tiny_squares_v1"}
    assert result["branches"]["tiny_hue_v1"]["hue"] == color

    async def row() -> Any:
        query = "SELECT * FROM tiny_visits WHERE record_id = $1::text::uuid AND hue IS NOT NULL"
        return await database.fetchrow(query, result["recordId"])

    await wait_until(row, timeout_s=10)
    found = await row()
    assert (found["class_name"], found["hue"], found["session_id"]) == (color, color, "shift-7")
    assert (found["display_id"], found["camera_id"]) == ("display-1", "cam-1")
    key = f"tiny:display-1:{result['recordId']}:{result['recordId']}.jpg"

    async def picture() -> Any:
        return await redis.get(key)

    await wait_until(picture, timeout_s=10)
    image = cv2.imdecode(np.frombuffer(await picture(), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    height, width = image.shape[:2]
    assert abs(height - 64) <= 8
    assert abs(width - 64) <= 8
    assert "bgr"[int(image.mean(axis=(0, 1)).argmax())] == color[0]


async def test_the_newest_picture_and_the_health_are_there_for_whoever_asks(
    folder: Path, running: WorkerProcess
) -> None:
    clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
    async with RtspServer(same_film(clip)) as cameras, connected(running.url) as client:
        await client.request(
            "subscribe",
            subscriptionIdentifier="display-1;cam-9",
            rtspUrl=cameras.urls["cam-1"],
            modelUrl=str(folder / "tiny.mpta"),
        )
        image_url = f"{running.http_url}camera/cam-9/image"
        await wait_until(lambda: asyncio.to_thread(lambda: http_status(image_url) == 200), timeout_s=10)
        body = await asyncio.to_thread(lambda: urllib.request.urlopen(image_url, timeout=10).read())  # noqa: S310
        report = await client.request("requestState")
        health = await asyncio.to_thread(http_status, f"{running.http_url}health")
        unknown = await asyncio.to_thread(http_status, f"{running.http_url}camera/nowhere/image")
        await client.request("unsubscribe", subscriptionIdentifier="display-1;cam-9")

    image = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (384, 640, 3)
    assert health == 200
    assert unknown == 404
    camera = next(one for one in report["payload"]["cameraConnections"] if one["subscriptionIdentifier"].endswith("9"))
    assert camera["state"] == "active"


async def test_a_camera_that_does_not_exist_is_told_with_its_reason(folder: Path, running: WorkerProcess) -> None:
    async with connected(running.url) as client:
        reply = await client.request(
            "subscribe",
            subscriptionIdentifier="display-2;cam-0",
            rtspUrl="rtsp://operator:canary-4711@127.0.0.1:9/none",
            modelUrl=str(folder / "tiny.mpta"),
        )
        assert reply["status"] == "success"
        await wait_until(lambda: any(s["state"] == "error" for s in client.payloads("streamStatus")), timeout_s=10)
        failed = next(status for status in client.payloads("streamStatus") if status["state"] == "error")
        await client.request("unsubscribe", subscriptionIdentifier="display-2;cam-0")

    assert failed["errorClass"] == "refused"
    assert failed["retryInSeconds"] > 0
    assert "canary" not in str(client.messages)


@pytest.mark.parametrize(
    ("model_url", "says"),
    [("missing.mpta", "missing.mpta"), ("clip.mp4", "ZIP"), ("/etc/hostname", "ZIP")],
)
async def test_a_bad_archive_is_refused_with_what_where_and_how(
    folder: Path, running: WorkerProcess, model_url: str, says: str
) -> None:
    async with connected(running.url) as client:
        reply = await client.request(
            "subscribe",
            subscriptionIdentifier="display-3;cam-1",
            rtspUrl="rtsp://127.0.0.1:9/none",
            modelUrl=str(folder / model_url),
        )
        state = await client.request("requestState")

    assert reply["status"] == "error"
    assert reply["error"]["code"] == "archive_invalid"
    assert says in reply["error"]["message"]
    assert not [c for c in state["payload"]["cameraConnections"] if c["subscriptionIdentifier"].startswith("display-3")]


async def test_the_small_stream_is_analysed_and_pictures_come_from_the_large_one(
    folder: Path, running: WorkerProcess
) -> None:
    parked = [Square("red", (300.0, 160.0), first_s=2.0)]
    large = [Square("red", (600.0 + x, 320.0 + y), first_s=2.0) for x, y in ((0, 0), (64, 0), (0, 64))]
    large.append(Square("blue", (664.0, 384.0), first_s=2.0))  # what only the large picture shows
    write_tiny_clip(folder / "small.mp4", squares=parked, seconds=8.0)
    write_tiny_clip(folder / "large.mp4", squares=large, seconds=8.0, wh=(1280, 768))
    clips = {name: await asyncio.to_thread(Clip.load, folder / f"{name}.mp4") for name in ("small", "large")}
    async with (
        RtspServer(clips) as cameras,
        connected(running.url) as client,
        stored(running.services()) as (_, redis),
    ):
        reply = await client.request(
            "subscribe",
            subscriptionIdentifier="display-7;cam-7",
            rtspUrl=cameras.urls["large"],
            detectUrl=cameras.urls["small"],
            modelUrl=str(folder / "tiny.mpta"),
        )
        assert reply["status"] == "success", reply
        (result, *_) = await client.wait_for("imageDetection", 1, timeout_s=30)
        key = f"tiny:display-7:{result['recordId']}:{result['recordId']}.jpg"

        async def picture() -> Any:
            return await redis.get(key)

        await wait_until(picture, timeout_s=10)
        image = cv2.imdecode(np.frombuffer(await picture(), np.uint8), cv2.IMREAD_COLOR)
        await client.request("unsubscribe", subscriptionIdentifier="display-7;cam-7")
        await wait_until(lambda: cameras.connected("small") + cameras.connected("large") == 0)

    box = result["detections"][0]["boundingBox"]
    assert abs(box["x1"] - 600) <= 8
    assert abs(box["y2"] - 448) <= 8
    assert image is not None
    assert all(abs(side - 128) <= 12 for side in image.shape[:2])
    assert "bgr"[int(image[32, 32].argmax())] == "r"
    assert "bgr"[int(image[96, 96].argmax())] == "b"


async def test_who_is_there_while_a_subscription_is_replaced_is_not_recorded_again(
    folder: Path, running: WorkerProcess
) -> None:
    write_tiny_clip(folder / "parked.mp4", squares=[Square("green", (300.0, 160.0))], seconds=4.0)
    clip = await asyncio.to_thread(Clip.load, folder / "parked.mp4")
    async with (
        RtspServer(same_film(clip)) as cameras,
        connected(running.url) as client,
        stored(running.services()) as (database, _),
    ):
        wish = {
            "subscriptionIdentifier": "display-8;cam-8",
            "rtspUrl": cameras.urls["cam-1"],
            "modelUrl": str(folder / "tiny.mpta"),
        }
        await client.request("subscribe", **wish)
        await client.wait_for("imageDetection", 1)
        for fps in (4, 5, 6):
            assert (await client.request("subscribe", **wish, targetFps=fps))["status"] == "success"
            await asyncio.sleep(1.5)
        await client.request("unsubscribe", subscriptionIdentifier="display-8;cam-8")
        rows = await database.fetch("SELECT record_id FROM tiny_visits WHERE camera_id = 'cam-8'")

    assert len(rows) == 1
    assert len(client.payloads("imageDetection")) == 1
