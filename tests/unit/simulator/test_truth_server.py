"""The truth over a real socket."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from detector_worker.core.exceptions import ServiceError
from detector_worker.simulator.rtsp_server import SentPicture
from detector_worker.simulator.scenes.truth import SceneTruth, VehicleTruth
from detector_worker.simulator.truth_server import TruthServer

VEHICLE = VehicleTruth(
    vehicle_id="cam-1/1",
    brand="Norda",
    body="van",
    colour="red",
    plate="AB 123",
    enters_s=1.0,
    stops_s=3.0,
    starts_s=9.0,
    leaves_s=11.0,
    plate_px=24.0,
    plate_readable=True,
    in_pair=False,
    occluded=False,
    lookalike=False,
    at_night=False,
    in_rain=False,
    parked=False,
    gap_s=1.0,
    boxes=((1.0, 0.0, 10.0, 50.0, 60.0, 1.0), (3.0, 100.0, 10.0, 150.0, 60.0, 0.5)),
)


def truth_of(camera_id: str) -> SceneTruth:
    return SceneTruth(camera_id, 7, "rain", 10.0, 12.0, (1280, 720), ((0.0, 0.0, 200.0, 100.0),), (VEHICLE,))


SENT = {"cam-1": (SentPicture(1000.5, 0.0), SentPicture(1000.6, 0.1)), "cam-2": ()}


@pytest.fixture
async def server() -> AsyncIterator[TruthServer]:
    async with TruthServer([truth_of("cam-1")], sent=SENT.__getitem__) as running:
        yield running


async def get(url: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.content_type == "application/json"
        return response.status, await response.json()


async def test_a_camera_tells_its_truth_and_what_was_sent(server: TruthServer) -> None:
    status, told = await get(server.urls["cam-1"])

    assert status == 200
    assert SceneTruth.from_json(orjson.dumps(told["truth"])) == truth_of("cam-1")
    assert told["sent"] == [[1000.5, 0.0], [1000.6, 0.1]]


async def test_the_cameras_are_listed_with_their_addresses(server: TruthServer) -> None:
    added = server.add(truth_of("cam-2"))

    status, told = await get(f"http://127.0.0.1:{server.port}/truth")

    assert status == 200
    assert told == [
        {"camera_id": "cam-1", "truth_url": f"http://127.0.0.1:{server.port}/truth/cam-1"},
        {"camera_id": "cam-2", "truth_url": added},
    ]
    assert (await get(added))[1]["truth"]["camera_id"] == "cam-2"


async def test_a_camera_that_does_not_exist_is_404(server: TruthServer) -> None:
    status, told = await get(server.urls["cam-1"] + "0")

    assert status == 404
    assert "cam-10" in told["error"]


async def test_a_busy_port_is_told(server: TruthServer) -> None:
    with pytest.raises(ServiceError, match=f"{server.port}.*--truth-port"):
        async with TruthServer(sent=SENT.__getitem__, port=server.port):
            pass


async def test_a_client_that_stays_does_not_hold_the_server_up() -> None:
    async with asyncio.timeout(5), aiohttp.ClientSession() as session:
        running = TruthServer([truth_of("cam-1")], sent=SENT.__getitem__)
        async with running as server, session.get(server.urls["cam-1"]) as response:
            await response.read()
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(server.urls["cam-1"])
