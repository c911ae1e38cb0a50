"""Sessions of a whole worker: told, patched into their rows, and still there after it was killed."""

import asyncio
from pathlib import Path
from typing import Any

from support.folders import open_folder
from support.tiny_clip import Square, write_tiny_clip
from support.tiny_models import tiny_pipeline, write_tiny_mpta
from support.waiting import wait_until
from support.worker import Client, connected, stored, worker

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import RtspServer, same_film


def archive(folder: Path) -> Path:
    columns = tiny_pipeline()["pipeline"]["tables"]["tiny_visits"]
    return write_tiny_mpta(folder / "tiny.mpta", tables={"tiny_visits": columns | {"axles": "integer"}})


async def patched_row(database: Any, client: Client, session_id: str, record_id: str, axles: int) -> dict[str, Any]:
    """Patch a session, and return its record's row once that has changed."""
    reply = await client.request("patchSession", sessionId=session_id, data={"axles": axles, "driver": "N. N."})
    assert reply["payload"] == {"session": {"axles": axles, "driver": "N. N."}}

    async def row() -> Any:
        query = "SELECT * FROM tiny_visits WHERE record_id = $1::text::uuid AND axles = $2"
        return await database.fetchrow(query, record_id, axles)

    await wait_until(row, timeout_s=10)
    return dict(await row())


async def test_a_session_is_patched_into_its_row_and_outlives_a_killed_worker() -> None:
    with open_folder() as folder:
        crossing = Square("red", (60.0, 100.0), (240.0, 0.0), first_s=0.2, last_s=1.8)
        write_tiny_clip(folder / "clip.mp4", squares=(crossing,), seconds=2.0)
        clip, mpta = await asyncio.to_thread(Clip.load, folder / "clip.mp4"), str(archive(folder))
        async with RtspServer(same_film(clip)) as cameras:
            wish = {"subscriptionIdentifier": "desk;cam-1", "rtspUrl": cameras.urls["cam-1"], "modelUrl": mpta}
            with worker(folder / "data") as first:
                async with connected(first.url) as client, stored(first.services()) as (database, _):
                    await client.request("subscribe", **wish)
                    own = (await client.wait_for("imageDetection"))[0]
                    row = await patched_row(database, client, own["sessionId"], own["recordId"], 3)
                    await client.request("setSessionId", displayIdentifier="desk", sessionId="shift-7")
                first.kill()

            with worker(folder / "data") as second:
                async with connected(second.url) as client, stored(second.services()) as (database, _):
                    again = await patched_row(database, client, own["sessionId"], own["recordId"], 4)
                    await client.request("subscribe", **wish)
                    later = (await client.wait_for("imageDetection"))[0]

    assert own["sessionId"] == own["recordId"]  # nobody had told one
    assert row["class_name"] == own["detections"][0]["className"]
    assert "driver" not in row
    assert row.keys() == again.keys()
    assert later["sessionId"] == "shift-7"
