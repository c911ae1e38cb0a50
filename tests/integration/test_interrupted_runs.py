"""A worker is killed while a parked vehicle's branches run: the next one completes its record."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.folders import open_folder
from support.tiny_clip import Square, write_tiny_clip
from support.tiny_models import write_tiny_mpta
from support.waiting import wait_until
from support.worker import connected, stored, worker

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


async def test_the_record_of_an_interrupted_run_is_completed_after_the_restart() -> None:
    with open_folder() as folder:
        write_tiny_clip(folder / "clip.mp4", squares=(Square("red", (200.0, 100.0)),), seconds=3.0)
        mpta = str(write_tiny_mpta(folder / "tiny.mpta"))
        clip = await asyncio.to_thread(Clip.load, folder / "clip.mp4")
        async with RtspServer(same_film(clip)) as cameras:
            wish = {"subscriptionIdentifier": "desk;cam-1", "rtspUrl": cameras.urls["cam-1"], "modelUrl": mpta}
            with worker(folder / "data") as first:
                async with connected(first.url) as client, stored(first.services()) as (database, _):
                    await client.request("subscribe", **wish)
                    told = (await client.wait_for("imageDetection"))[0]
                    complete = await only_row(database)
                    await wait_until(lambda: is_complete(folder / "data" / "spool.sqlite"))
                    # As if it had been killed a moment earlier: no moment so short is hit by chance.
                    await database.execute("UPDATE tiny_visits SET hue = NULL")
                    await database.execute("DELETE FROM detector_worker.delivered WHERE key LIKE '%update%'")
                first.kill()
            with closing(sqlite3.connect(folder / "data" / "spool.sqlite")) as spool, spool:
                spool.execute("UPDATE visits SET is_complete = 0")

            with worker(folder / "data") as second:
                async with connected(second.url) as client, stored(second.services()) as (database, _):
                    await client.request("subscribe", **wish)
                    again = (await client.wait_for("imageDetection"))[0]
                    completed = await only_row(database)

    assert complete["hue"] == "red"
    assert again["recordId"] == told["recordId"]
    assert completed == complete


def is_complete(spool: Path) -> bool:
    with closing(sqlite3.connect(spool)) as connection:
        return connection.execute("SELECT is_complete FROM visits").fetchall() == [(1,)]


async def only_row(database: Any) -> dict[str, Any]:
    async def hue() -> Any:
        return await database.fetchval("SELECT hue FROM tiny_visits")

    await wait_until(hue, timeout_s=10)
    (row,) = await database.fetch("SELECT * FROM tiny_visits")
    return dict(row)
