"""What tests of the executor need: an outbox that remembers, painted frames, visits, and models that misbehave."""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.clock import SystemClock
from detector_worker.core.entities import (
    BoundingBox,
    ClassificationResult,
    DetectionResult,
    Detections,
    Shot,
    Visit,
)
from detector_worker.core.exceptions import ModelError, ServiceError
from detector_worker.core.frame import Frame
from detector_worker.core.outbox import SavedVisit, SessionEntry, SpoolEntry
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.models.pipeline_config import PipelineConfig, PipelineFile
from detector_worker.pipeline.action_executor import ActionExecutor
from detector_worker.pipeline.context import PipelineContext
from detector_worker.pipeline.pipeline_executor import PipelineExecutor

RECORD_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
CAPTURED_AT = 1_769_851_613.589
CAR = BoundingBox(100.5, 40.0, 300.0, 200.0)
PLATE = BoundingBox(150.0, 160.0, 210.0, 180.0)
Result = TypeVar("Result")


async def in_a_thread(work: Callable[[], Result], /) -> Result:
    """Run blocking work as the analysis threads do."""
    return await asyncio.to_thread(work)


@dataclass
class RecordingOutbox:
    """Takes everything, as the spool does: each idempotency key once. ``refuses`` makes it a full disk."""

    refuses: bool = False
    batches: list[list[SpoolEntry]] = field(default_factory=list)
    visits: list[SavedVisit | None] = field(default_factory=list)
    sessions: list[SessionEntry | None] = field(default_factory=list)

    async def accept(
        self, entries: Sequence[SpoolEntry], *, visit: SavedVisit | None = None, session: SessionEntry | None = None
    ) -> None:
        if self.refuses:
            raise ServiceError("The spool is full", where="spool", mend="Make room.")
        self.batches.append(list(entries))
        self.visits.append(visit)
        self.sessions.append(session)

    async def save_visit(self, visit: SavedVisit) -> None:
        self.visits.append(visit)

    async def forget_visit(self, record_id: str) -> None:
        self.visits = [visit for visit in self.visits if visit is None or visit.visit.record_id != record_id]

    @property
    def entries(self) -> list[SpoolEntry]:
        return [entry for batch in self.batches for entry in batch]

    def deliveries(self, kind: type[Result]) -> list[Result]:
        return [entry.delivery for entry in self.entries if isinstance(entry.delivery, kind)]


class FakeModel:
    """Says what it is told to, one answer a picture (the last one again and again), and remembers its pictures."""

    def __init__(self, *answers: ClassificationResult | Exception, wait_for: threading.Event | None = None) -> None:
        self._answers = list(answers)
        self._wait_for = wait_for
        self.pictures: list[Frame | NDArray[np.uint8]] = []
        self.found = Detections.empty()
        self.regions: list[tuple[int, int, int, int] | None] = []

    def classify(self, picture: Frame | NDArray[np.uint8], confidence_threshold: float, /) -> ClassificationResult:
        self.pictures.append(picture)
        if self._wait_for is not None:
            self._wait_for.wait(30)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def detect(
        self, frame: Frame, confidence_threshold: float, /, *, region: tuple[int, int, int, int] | None = None
    ) -> Detections:
        self.pictures.append(frame)
        self.regions.append(region)
        return self.found


def says(label: str | None, confidence: float) -> FakeModel:
    return FakeModel(ClassificationResult(label, confidence))


def fails() -> FakeModel:
    return FakeModel(ModelError("The runtime failed", where="model", mend="See the log."))


def detections(*rows: tuple[str, BoundingBox, float]) -> Detections:
    names = tuple(dict.fromkeys(name for name, _, _ in rows))
    return Detections(
        np.array([[box.x1, box.y1, box.x2, box.y2] for _, box, _ in rows], np.float32).reshape(-1, 4),
        np.array([confidence for _, _, confidence in rows], np.float32),
        np.array([names.index(name) for name, _, _ in rows], np.int32),
        names,
    )


def make_frame(frame_id: int = 42, *, wh: tuple[int, int] = (640, 360), grey: int = 128) -> Frame:
    """A grey frame with a red car and a white plate where `CAR` and `PLATE` say."""
    image = np.full((wh[1], wh[0], 3), grey, np.uint8)
    image[40:200, 101:300] = (0, 0, 255)
    image[160:180, 150:210] = (255, 255, 255)
    return Frame(image, camera_id="cam-001", frame_id=frame_id, time_s=10.0, captured_at=CAPTURED_AT)


def seen(class_name: str, box: BoundingBox, confidence: float = 0.9) -> DetectionResult:
    return DetectionResult(class_name, confidence, box, 7, CAPTURED_AT)


def make_shot(frame_id: int = 41, *, plate: bool = True, grey: int = 100) -> Shot:
    group = (seen("car", CAR), seen("plate", PLATE)) if plate else (seen("car", CAR),)
    return Shot(make_frame(frame_id, grey=grey), group, 1.0)


def make_visit(*, parts: bool = True, shots: tuple[Shot, ...] = ()) -> Visit:
    return Visit(
        record_id=RECORD_ID,
        camera_id="cam-001",
        track_id=7,
        class_name="car",
        confidence=0.93,
        bounding_box=CAR,
        first_s=9.0,
        last_s=10.0,
        captured_at=CAPTURED_AT,
        frame_id=42,
        parts=(seen("plate", PLATE, 0.8),) if parts else (),
        shots=shots,
    )


def make_context(
    visit: Visit | None = None, *, session_id: str | float | None = "s-1", saved_visit: SavedVisit | None = None
) -> PipelineContext:
    return PipelineContext.from_visit(
        visit or make_visit(),
        make_frame(),
        display_id="display-001",
        session_id=session_id,
        model_id="cars_v1",
        saved_visit=saved_visit,
    )


def make_config(**keys: Any) -> PipelineConfig:
    """A pipeline as an archive would have it, camelCase keys as in the file."""
    plain = {"modelId": "cars_v1", "modelFile": "cars.onnx", "modelType": "detection"}
    return PipelineFile.model_validate({"schemaVersion": 1, "pipeline": {**plain, **keys}}).pipeline


def branch(model_id: str, **keys: Any) -> dict[str, Any]:
    plain = {"modelFile": f"{model_id}.onnx", "modelType": "classification", "parallel": True, "crop": True}
    return {"modelId": model_id, **plain, **keys}


def make_actions(outbox: RecordingOutbox, tables: Mapping[str, Mapping[str, str]] | None = None) -> ActionExecutor:
    return ActionExecutor(outbox=outbox, clock=SystemClock(), tables=tables or {})


def make_executor(outbox: RecordingOutbox, models: Mapping[str, FakeModel]) -> PipelineExecutor:
    detectors = cast("Mapping[str, YOLODetector]", models)
    return PipelineExecutor(actions=make_actions(outbox), detectors=detectors, run_inference=in_a_thread)


def single_frame(frame: Frame, *, record_id: str = RECORD_ID, session_id: str = RECORD_ID) -> PipelineContext:
    """A run for one frame in which nothing has been detected yet."""
    return PipelineContext(
        camera_id=frame.camera_id,
        display_id="display-001",
        record_id=record_id,
        session_id=session_id,
        model_id="cars_v1",
        frame=frame,
        frame_id=frame.frame_id,
        timestamp=frame.captured_at,
    )
