"""The way from real pictures to visits: a real detector, and vehicles counted by eye."""

from collections.abc import Awaitable, Callable
from itertools import count

import av
import pytest
from support.assets import assets_dir
from support.loading import model_config, new_manager

from detector_worker.core.entities import Visit, VisitEnded, VisitStarted
from detector_worker.core.frame import Frame
from detector_worker.detection.tracking_manager import unsure_confidence
from detector_worker.detection.visits import VisitTracker
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.models.pipeline_config import StabilityConfig, TrackingConfig

COCO_VEHICLES = {2: "car", 3: "motorcycle", 5: "bus", 7: "truck"}
MIN_CONFIDENCE = 0.4

Watch = Callable[..., Awaitable[list[Visit]]]


@pytest.fixture
async def watch() -> Watch:
    path = assets_dir() / "detector" / "yolox_nano.onnx"
    classes = [COCO_VEHICLES.get(index) for index in range(80)]
    config = model_config(path, classes=classes, nms={"acrossClasses": True})
    detector = await YOLODetector.load_model(new_manager(), config)

    async def watch(clip: str, *, fps: float) -> list[Visit]:
        numbers = count(1)
        tracker = VisitTracker(
            camera_id=clip,
            stability=StabilityConfig(),
            tracking=TrackingConfig(),
            min_confidence=MIN_CONFIDENCE,
            new_record_id=lambda: f"record-{next(numbers)}",
        )
        events, next_s, time_s = [], 0.0, 0.0
        with av.open(str(assets_dir() / "clip" / clip)) as container:
            for number, picture in enumerate(container.decode(video=0)):
                time_s = float(picture.time or 0.0)
                if time_s + 1e-6 < next_s:
                    continue
                next_s = max(next_s + 1 / fps, time_s)
                frame = Frame(picture, camera_id=clip, frame_id=number, time_s=time_s, captured_at=time_s)
                events += tracker.update(detector.detect(frame, unsure_confidence(MIN_CONFIDENCE)), frame)
        events += tracker.finish()
        started = [event.visit for event in events if isinstance(event, VisitStarted)]
        ended = [event.visit.record_id for event in events if isinstance(event, VisitEnded)]
        assert sorted(ended) == sorted(visit.record_id for visit in started)
        return started

    return watch


def overlap_s(first: Visit, second: Visit) -> float:
    shared_x = min(first.bounding_box.x2, second.bounding_box.x2) - max(first.bounding_box.x1, second.bounding_box.x1)
    shared_y = min(first.bounding_box.y2, second.bounding_box.y2) - max(first.bounding_box.y1, second.bounding_box.y1)
    return max(0.0, shared_x) * max(0.0, shared_y) / min(first.bounding_box.area, second.bounding_box.area)


async def test_each_vehicle_of_the_traffic_clip_is_one_visit(watch: Watch) -> None:
    """29 vehicles cross by eye; one leaves in the first half second, the small detector is unsure of a few others."""
    visits = await watch("traffic_side.mp4", fps=5)

    assert 23 <= len(visits) <= 28
    doubles = [
        (first.record_id, second.record_id)
        for number, first in enumerate(visits)
        for second in visits[number + 1 :]
        if abs(first.captured_at - second.captured_at) < 0.5 and overlap_s(first, second) > 0.6
    ]
    assert doubles == []


async def test_the_parked_cars_of_the_street_clip_are_one_visit_each(watch: Watch) -> None:
    """Four parked cars that the detector knows, for 73 s, while others and a school bus pass before them."""
    visits = await watch("street_parked.mp4", fps=2)

    places = {"far left": (117, 124), "far right": (258, 100), "yellow": (231, 255), "white": (386, 272)}
    counted = {
        name: sum(
            visit.bounding_box.x1 < x < visit.bounding_box.x2
            and visit.bounding_box.y1 < y < visit.bounding_box.y2
            and visit.first_s < 3
            for visit in visits
        )
        for name, (x, y) in places.items()
    }
    assert counted == dict.fromkeys(places, 1)
    assert len(visits) <= 14  # ten vehicles move
