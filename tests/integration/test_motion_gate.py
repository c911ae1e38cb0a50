"""The same films with and without the motion gate: the same visits, at a part of the work."""

import json
import threading
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.watched_group import watched_group

from detector_worker.core.clock import SystemClock
from detector_worker.core.entities import VisitEvent
from detector_worker.engine.engine import SubscriptionOptions, SubscriptionSpec
from detector_worker.simulator.film import Film, FilmOrder, make_film
from detector_worker.streams.file_reader import FileReader

DEMO = Path(__file__).parents[2] / "detector_worker" / "simulator" / "demo.mpta"


def demo_archive(path: Path, **motion: Any) -> Path:
    """Write the demo's archive with other settings of its motion gate, and nothing to be done with its visits."""
    with zipfile.ZipFile(DEMO) as source, zipfile.ZipFile(path, "w") as target:
        document = json.loads(source.read("pipeline.json"))
        document["pipeline"] |= {"motion": motion, "actions": [], "branches": [], "parallelActions": []}
        target.writestr("pipeline.json", json.dumps(document))
        target.writestr("demo_detector.onnx", source.read("demo_detector.onnx"))
    return path


async def analysed(film: Film, archive: Path, folder: Path) -> tuple[list[tuple[Any, ...]], int, int]:
    """Return what is told of each visit, and how many frames were analysed and passed over."""
    events: list[VisitEvent] = []
    frames = 0
    options = SubscriptionOptions(ignore_masks=film.truth.ignore_masks)
    spec = SubscriptionSpec("desk;gate", "desk", "gate", str(archive), rtsp_url="rtsp://127.0.0.1/", options=options)
    async with watched_group(folder) as group:
        lane = await group.load_lane(spec, lossless=True, observe=lambda one: events.extend(one.events))
        with closing(FileReader(film.path, "gate", threading.Event(), clock=SystemClock())) as reader:
            reader.connect()
            while (frame := reader.read_frame()) is not None:
                lane.offer(frame)
                lane.begin()()
                lane.end()
                frames += 1
        events += lane.visits.finish()
    visits = sorted({event.visit.record_id: event.visit for event in events}.values(), key=lambda visit: visit.first_s)
    told = [(one.class_name, one.first_s, one.last_s, one.frame_id, one.bounding_box) for one in visits]
    return told, frames - lane.still, lane.still


@pytest.mark.slow
async def test_visits_are_the_same_and_most_frames_need_no_look(tmp_path: Path) -> None:
    """It rains, and people walk by half of the time, which is no reason to look away."""
    order = FilmOrder(seed=12, camera=3, vehicles=1, fps=5, shortest_stop_s=16, longest_stop_s=18)
    film = make_film(order, cache=tmp_path / "films")

    every_frame, all_frames, _ = await analysed(film, demo_archive(tmp_path / "a.mpta", enabled=False), tmp_path / "a")
    gated, looked_at, still = await analysed(film, demo_archive(tmp_path / "b.mpta"), tmp_path / "b")

    assert gated == every_frame
    assert len(gated) == 1
    assert looked_at + still == all_frames
    assert still > 0.4 * all_frames
