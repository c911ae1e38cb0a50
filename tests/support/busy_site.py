"""A film in which vehicles pass all the time, an archive that records them, and a client that watches."""

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

from support.tiny_clip import Square, write_tiny_clip
from support.tiny_models import tiny_pipeline, write_tiny_mpta
from support.worker import Client, WorkerProcess

from detector_worker.simulator.rtsp_server import RtspServer

__all__ = [
    "frames_in",
    "frames_of",
    "health",
    "promised_records",
    "watch",
    "write_archive_without_unique_key",
    "write_busy_clip",
]


def write_busy_clip(path: Path) -> None:
    """Vehicles pass all the time; a green one stays parked, also while the clip begins anew."""
    passing = [
        Square(
            "red",
            (60.0, 40.0 + 70 * lane),
            (150.0, 0.0),
            first_s=0.6 * lane + 2.4 * turn,
            last_s=0.6 * lane + 2.4 * turn + 2.2,
        )
        for turn in range(3)
        for lane in range(1, 4)
    ]
    parked = Square("green", (560.0, 310.0))
    write_tiny_clip(path, squares=[*passing, parked], seconds=9.0, gop=10)


def write_archive_without_unique_key(path: Path, *, target_fps: int = 10) -> None:
    """No primary key: a record written twice would be two rows."""
    tables = {"tiny_visits": tiny_pipeline()["pipeline"]["tables"]["tiny_visits"] | {"record_id": "uuid"}}
    write_tiny_mpta(path, targetFps=target_fps, tables=tables)


async def watch(client: Client, cameras: RtspServer, archive: Path, **options: Any) -> None:
    """Subscribe to every camera."""
    for camera_id, url in cameras.urls.items():
        reply = await client.request(
            "subscribe",
            subscriptionIdentifier=f"gate;{camera_id}",
            rtspUrl=url,
            modelUrl=str(archive),
            **options,
        )
        assert reply["status"] == "success", reply


def promised_records(client: Client) -> set[str]:
    """Return the records that the client was told of as recorded."""
    return {result["recordId"] for result in client.payloads("imageDetection") if result["recordId"]}


def health(worker: WorkerProcess) -> dict[str, Any]:
    """Return what ``GET /health`` says."""
    with urllib.request.urlopen(f"{worker.http_url}health", timeout=10) as response:  # noqa: S310
        content: dict[str, Any] = json.loads(response.read())
    return content


def frames_of(client: Client, camera_id: str) -> int:
    """Count the live results of a camera so far."""
    return sum(one["cameraId"] == camera_id and not one["final"] for one in client.payloads("imageDetection"))


async def frames_in(client: Client, camera_id: str, seconds: float) -> int:
    """Count the live results of a camera in the next seconds."""
    before = frames_of(client, camera_id)
    await asyncio.sleep(seconds)
    return frames_of(client, camera_id) - before
