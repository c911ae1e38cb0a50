"""The picture with what was seen in it, of a whole worker before real cameras."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.folders import open_folder
from support.tiny_clip import Square, write_tiny_clip
from support.tiny_models import write_tiny_mpta
from support.waiting import wait_until
from support.worker import Client, WorkerProcess, connected, worker

from detector_worker.detection.overlay import _colour
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film

RED = (200, 160, 264, 224)
"""Where the square stands, x1 y1 x2 y2."""
GREEN = (448, 256, 512, 320)


@dataclass
class Site:
    """A worker, a client of it, and two cameras that show two standing squares."""

    running: WorkerProcess
    client: Client
    cameras: RtspServer
    archive: str

    async def subscribe(self, camera_id: str, display: str = "desk", **more: Any) -> None:
        reply = await self.client.request(
            "subscribe",
            subscriptionIdentifier=f"{display};{camera_id}",
            rtspUrl=self.cameras.urls[camera_id],
            modelUrl=self.archive,
            **more,
        )
        assert reply["status"] == "success", reply

    async def get(self, camera_id: str, *, annotated: bool) -> tuple[int, bytes]:
        url = f"{self.running.http_url}/camera/{camera_id}/image".replace("//camera", "/camera")
        query = {"annotated": "true"} if annotated else {}
        async with aiohttp.ClientSession() as http, http.get(url, params=query) as answer:
            return answer.status, await answer.read()

    async def picture(self, camera_id: str, *, annotated: bool) -> NDArray[np.uint8]:
        """Ask until there is one."""
        pictures: list[bytes] = []

        async def is_there() -> bool:
            status, body = await self.get(camera_id, annotated=annotated)
            assert status in {200, 503}, body
            pictures.extend([body] if status == 200 else [])
            return bool(pictures)

        await wait_until(is_there, timeout_s=15)
        image = cv2.imdecode(np.frombuffer(pictures[0], np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        return image.astype(np.uint8)


@pytest.fixture(scope="module")
def running() -> Iterator[WorkerProcess]:
    with open_folder() as folder, worker(folder / "data") as running:
        squares = (Square("red", RED[:2]), Square("green", GREEN[:2]))
        write_tiny_clip(folder / "clip.mp4", squares=squares, seconds=2.0)
        write_tiny_mpta(folder / "tiny.mpta")
        yield running


@pytest.fixture
async def site(running: WorkerProcess) -> AsyncIterator[Site]:
    folder = running.data_dir.parent
    clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
    async with RtspServer(same_film(clip, 2)) as cameras, connected(running.url) as client:
        yield Site(running, client, cameras, str(folder / "tiny.mpta"))


def is_painted(image: NDArray[np.uint8], colour: tuple[int, int, int], *xyxy: int) -> bool:
    """True if nearly this colour is in a region; JPEG blurs it."""
    x1, y1, x2, y2 = xyxy
    off = np.abs(image[y1:y2, x1:x2].astype(int) - colour).sum(axis=2)
    return bool(off.min() < 100)


def brightness(image: NDArray[np.uint8], *xyxy: int) -> float:
    x1, y1, x2, y2 = xyxy
    return float(image[y1:y2, x1:x2].mean())


async def test_boxes_and_what_the_branches_said_are_drawn_where_the_object_is(site: Site) -> None:
    await site.subscribe("cam-1")
    results = await site.client.wait_for("imageDetection", 2)
    seen = {one["detections"][0]["className"]: one for one in results}
    colour = _colour(seen["red"]["detections"][0]["trackId"])

    plain = await site.picture("cam-1", annotated=False)
    drawn = await site.picture("cam-1", annotated=True)

    x1, y1, x2, y2 = RED
    edges = {
        "left": (x1 - 6, y1 + 20, x1 + 6, y2 - 20),
        "right": (x2 - 6, y1 + 20, x2 + 6, y2 - 20),
        "bottom": (x1 + 20, y2 - 6, x2 - 20, y2 + 6),
    }
    assert {name: is_painted(drawn, colour, *edge) for name, edge in edges.items()} == dict.fromkeys(edges, True)
    assert {name: is_painted(plain, colour, *edge) for name, edge in edges.items()} == dict.fromkeys(edges, False)
    assert brightness(drawn, x1 + 12, y1 + 12, x2 - 12, y2 - 12) == pytest.approx(
        brightness(plain, x1 + 12, y1 + 12, x2 - 12, y2 - 12), abs=3
    )
    bare = cv2.getTextSize(f"{seen['red']['detections'][0]['trackId']} red", cv2.FONT_HERSHEY_SIMPLEX, 384 / 900, 1)
    said_from = x1 + bare[0][0] + 12
    assert is_painted(drawn, colour, said_from, y1 - 18, said_from + 20, y1 - 8), "what the branches said"


async def test_what_is_not_looked_at_is_dimmed(site: Site) -> None:
    await site.subscribe("cam-2", cropX1=0, cropY1=64, cropX2=640, cropY2=384, options={"ignoreMasks": [GREEN]})
    await site.client.wait_for("imageDetection", 1)

    plain = await site.picture("cam-2", annotated=False)
    drawn = await site.picture("cam-2", annotated=True)

    for name, region in {"outside the crop": (400, 20, 640, 60), "masked": (460, 268, 500, 308)}.items():
        assert brightness(drawn, *region) == pytest.approx(0.6 * brightness(plain, *region), abs=4), name
    looked_at = (20, 250, 180, 370)
    assert brightness(drawn, *looked_at) == pytest.approx(brightness(plain, *looked_at), abs=2)


async def test_there_is_none_of_a_camera_that_nobody_watches_or_that_is_down(site: Site) -> None:
    reply = await site.client.request(
        "subscribe", subscriptionIdentifier="desk;down", rtspUrl="rtsp://127.0.0.1:9/none", modelUrl=site.archive
    )
    assert reply["status"] == "success", reply

    assert (await site.get("down", annotated=True))[0] == 503
    assert (await site.get("nowhere", annotated=True))[0] == 404
