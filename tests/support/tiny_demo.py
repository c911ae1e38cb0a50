"""A demo of tiny squares: an archive that stores them as the demo's vehicles, and films with their truth.

And how tests run a demo, whatever it shows.
"""

import asyncio
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from support.tiny_clip import Square, write_tiny_clip
from support.tiny_models import tiny_pipeline, write_tiny_mpta
from support.waiting import wait_until

from detector_worker.cli.demo.command import run_until_interrupted
from detector_worker.cli.demo.report import Report
from detector_worker.cli.demo.show import Demo, DemoPlan
from detector_worker.cli.films import FilmProgress
from detector_worker.simulator.film import Film, FilmOrder
from detector_worker.simulator.scenes.truth import SceneTruth, VehicleTruth

__all__ = [
    "fetch",
    "one_by_one",
    "quiet_console",
    "run",
    "run_and_kill",
    "scene",
    "vehicle",
    "write_tiny_demo_mpta",
    "write_tiny_film",
]

_FPS: Final = 10
_COLUMNS: Final = {
    "record_id": "uuid primary key",
    "camera_id": "text",
    "display_id": "text",
    "session_id": "text",
    "captured_timestamp": "timestamptz",
    "frame_id": "bigint",
    **dict.fromkeys(("x1", "y1", "x2", "y2", "confidence"), "double precision"),
    **dict.fromkeys(("brand", "body_type", "plate"), "text"),
}


def write_tiny_demo_mpta(path: Path) -> Path:
    """Write the tiny archive with the demo's table and pictures: the hue is the brand, the tone the body type."""
    own = {"captured_timestamp": "{timestamp}", **{side: f"{{bbox.{side}}}" for side in ("x1", "y1", "x2", "y2")}}
    same = ("record_id", "camera_id", "display_id", "session_id", "frame_id", "confidence")
    key = "gate:{display_id}:{record_id}:"
    actions: list[dict[str, Any]] = [
        {
            "type": "postgresql_create_record",
            "table": "gate_visits",
            "fields": own | {name: f"{{{name}}}" for name in same},
        },
        {"type": "redis_save_image", "id": "vehicle", "region": "best", "key": f"{key}vehicle"},
        {"type": "redis_save_image", "id": "frame", "region": "frame", "key": f"{key}frame"},
    ]
    (update,) = tiny_pipeline()["pipeline"]["parallelActions"]
    fields = {"brand": "{tiny_hue_v1.hue}", "body_type": "{tiny_tone_v1.tone}"}
    update |= {"table": "gate_visits", "fields": fields}
    return write_tiny_mpta(
        path, actions=actions, parallelActions=[update], tables={"gate_visits": _COLUMNS}, targetFps=10
    )


def vehicle(
    vehicle_id: str, rows: Sequence[tuple[float, float, float, float, float]], *, last_s: float, **changes: Any
) -> VehicleTruth:
    """Make a vehicle of rows of film second and box."""
    first_s = rows[0][0]
    values: dict[str, Any] = {
        "brand": "red",
        "body": "bright",
        "colour": "red",
        "plate": "AB 123",
        "enters_s": first_s,
        "stops_s": first_s,
        "starts_s": last_s,
        "leaves_s": last_s,
        "plate_px": 10.0,
        "gap_s": 1.0,
    }
    flags = ("plate_readable", "in_pair", "occluded", "lookalike", "at_night", "in_rain", "parked")
    boxes = tuple((*row, 1.0) for row in rows)
    return VehicleTruth(vehicle_id=vehicle_id, boxes=boxes, **dict.fromkeys(flags, False) | values | changes)


def scene(*vehicles: VehicleTruth, camera_id: str = "cam-1", duration_s: float = 10.0) -> SceneTruth:
    """Make a film's truth."""
    return SceneTruth(camera_id, 1, "day", _FPS, duration_s, (640, 384), (), vehicles)


def write_tiny_film(path: Path, squares: Sequence[Square], *, camera_id: str, seconds: float) -> Film:
    """Film squares; each is a vehicle."""
    write_tiny_clip(path, squares=squares, seconds=seconds, fps=_FPS, gop=10)
    vehicles = []
    for number, square in enumerate(squares, start=1):
        moments = (index / _FPS for index in range(round(seconds * _FPS)))
        boxes = [(second, box) for second in moments if (box := square.xyxy_at(second)) is not None]
        rows = [(second, float(x1), float(y1), float(x2), float(y2)) for second, (x1, y1, x2, y2) in boxes]
        seen = vehicle(f"{camera_id}/{number}", rows, last_s=rows[-1][0] + 1 / _FPS, brand=square.color)
        vehicles.append(seen)
    return Film(path, scene(*vehicles, camera_id=camera_id, duration_s=seconds))


def one_by_one(*films: Film) -> Callable[[FilmProgress], AsyncGenerator[Film, None]]:
    """Give finished films as the demo takes them."""

    async def give(progress: FilmProgress) -> AsyncGenerator[Film, None]:
        for number, film in enumerate(films, start=1):
            progress(FilmOrder(1, number, len(film.truth.vehicles)), 0.5)
            await asyncio.sleep(0)
            yield film

    return give


def quiet_console() -> Console:
    """Hear nothing of it."""
    return Console(stderr=True, quiet=True)


async def run(demo: Demo) -> Report:
    """Run a demo to its end."""
    report = await demo.run()
    assert report is not None
    return report


async def run_and_kill(demo: Demo, *, when: Callable[[], object]) -> Report:
    """Kill the worker with -9 once ``when`` is true."""
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(run(demo))
        await wait_until(when, timeout_s=60)
        assert demo.board.worker.pid is not None
        os.kill(demo.board.worker.pid, signal.SIGKILL)
    assert demo.board.worker.restarts == 1
    return running.result()


def fetch(url: str) -> bytes:
    """Get what a demo's page shows at an address."""
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own
        content: bytes = answer.read()
    return content


def main(folder: Path) -> None:
    """Run an endless demo in a folder, as the command does with its own films and archive."""
    film = write_tiny_film(folder / "film.mp4", [Square("red", (100.0, 60.0))], camera_id="cam-1", seconds=10.0)
    archive = write_tiny_demo_mpta(folder / "tiny.mpta")
    plan = DemoPlan(folder, archive, ("cam-1",), one_by_one(film))
    asyncio.run(run_until_interrupted(plan, Console(stderr=True)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
