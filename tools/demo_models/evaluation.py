"""How good an archive is: measured by the product's own loader and detector, on pictures that nobody trained on."""

import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from demo_models.figures import ClassFigures, PictureMatch, class_figures, match_picture
from demo_models.packing import BRANCH_IDS, MODEL_ID, packed_models
from demo_models.progress import Progress
from demo_models.samples import evaluation_seeds
from demo_models.tasks import (
    AIMS,
    CROP_TASKS,
    DETECTOR_CLASSES,
    MIN_CONFIDENCE,
    TASK_NAMES,
    CropTask,
    CropTaskName,
    TaskName,
    is_judged,
)
from detector_worker.core.config import Configuration
from detector_worker.core.entities import BoundingBox
from detector_worker.core.frame import Frame
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.engine.group_models import GroupModels
from detector_worker.models.pipeline_loader import LoadedPipeline
from detector_worker.pipeline.pictures import crop_region_from_frame
from detector_worker.simulator.scenes.stills import SeenObject, still

__all__ = ["AnswerFigures", "Evaluation", "ModelFacts", "evaluate"]

_LEAST_CONFIDENCE: Final = 0.02
_STILLS_AT_ONCE: Final = 10
_TIMED_RUNS: Final = 50


@dataclass(frozen=True, slots=True)
class AnswerFigures:
    """A classifier or reader on the boxes that the detector found."""

    crops: int
    right: float
    """Share of crops whose most probable answer is right."""
    answered: float
    """Share that is confident enough for an answer; so is the next."""
    right_of_answered: float


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model costs."""

    file_bytes: int
    input_hw: tuple[int, int]
    ms: float
    """A picture, the middle of many, on one core, by OpenVINO in f32."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All figures of an archive."""

    stills: int
    first_seed: int
    last_seed: int
    archive_bytes: int
    models: dict[TaskName, ModelFacts]
    classes: dict[str, ClassFigures]
    answers: dict[CropTaskName, AnswerFigures]
    plates_by_height: dict[str, AnswerFigures]

    def reached(self) -> dict[TaskName, float]:
        """Return what the aims are about, by model."""
        mean = statistics.fmean(one.average_precision for one in self.classes.values())
        return {"detector": mean, **{name: one.right for name, one in self.answers.items()}}

    def misses(self) -> list[TaskName]:
        """Return the models that miss their aim."""
        return [name for name, reached in self.reached().items() if reached < AIMS[name]]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a model said of one object."""

    task: CropTaskName
    height_px: float
    visible: float
    is_right: bool
    confidence: float


@dataclass(slots=True)
class _Findings:
    """What one process saw in its pictures."""

    stills: int = 0
    matches: dict[str, list[PictureMatch]] = field(default_factory=lambda: defaultdict(list))
    answers: list[_Answer] = field(default_factory=list)


def evaluate(archive: Path, *, stills: int, workers: int) -> Evaluation:
    """Measure an archive; blocks for about a tenth of a second a still and core.

    Raises:
        DetectorWorkerError: The product refuses the archive.
    """
    seeds = evaluation_seeds(stills)
    parts = [seeds[first : first + _STILLS_AT_ONCE] for first in range(0, stills, _STILLS_AT_ONCE)]
    progress, found = Progress("evaluation", stills), _Findings()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_look_at, archive, part) for part in parts]):
            part = done.result()
            for name, matches in part.matches.items():
                found.matches[name] += matches
            found.answers += part.answers
            progress.advance(part.stills)
    judged = {name: [one for one in found.answers if one.task == name] for name in CROP_TASKS}
    return Evaluation(
        stills=stills,
        first_seed=seeds[0],
        last_seed=seeds[-1],
        archive_bytes=archive.stat().st_size,
        models=asyncio.run(_facts(archive)),
        classes={name: class_figures(found.matches[name], min_confidence=MIN_CONFIDENCE) for name in DETECTOR_CLASSES},
        answers={name: _answer_figures(_judged(judged[name], task)) for name, task in CROP_TASKS.items()},
        plates_by_height=_by_height(judged["plate"], CROP_TASKS["plate"]),
    )


def _look_at(archive: Path, seeds: Sequence[int]) -> _Findings:
    """Judge an archive on some pictures; runs in a process of its own."""
    models, found = _detectors(archive), _Findings()
    for seed in seeds:
        _look_at_still(seed, models, found)
        found.stills += 1
    return found


@cache
def _detectors(archive: Path) -> dict[str, YOLODetector]:
    """Load an archive once for all that a process looks at."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = asyncio.run(_load(archive, Path(folder)))
        return {name: YOLODetector(model) for name, model in loaded.models.items()}


async def _load(archive: Path, folder: Path) -> LoadedPipeline:
    configuration = Configuration.model_validate({"server": {"data_dir": str(folder)}})
    return await GroupModels(configuration, threads=1, any_path=True).loader.load_pipeline(archive)


def _look_at_still(seed: int, models: dict[str, YOLODetector], found: _Findings) -> None:
    image, seen = still(seed)
    frame = Frame(image, camera_id="evaluation", frame_id=seed, time_s=0.0, captured_at=0.0)
    detections = models[MODEL_ID].detect(frame, _LEAST_CONFIDENCE)
    for class_id, kind in enumerate(DETECTOR_CLASSES):
        own = detections.select(detections.class_id == class_id)
        objects = [one for one in seen if one.kind == kind]
        xyxy = np.array([one.xyxy for one in objects], np.float64).reshape(-1, 4)
        asked = [is_judged(one.kind, _height_px(one), one.visible) for one in objects]
        match = match_picture(own.xyxy.astype(np.float64), own.confidence.astype(np.float64), xyxy, asked)
        found.matches[kind].append(match)
        for one, index in zip(objects, match.found_by, strict=True):
            if index >= 0 and own.confidence[index] >= MIN_CONFIDENCE:
                found.answers += _answers(frame, one, own.xyxy[index], models)


def _answers(
    frame: Frame, one: SeenObject, xyxy: NDArray[np.float32], models: dict[str, YOLODetector]
) -> list[_Answer]:
    """Ask about one object in the box that the detector gave it."""
    answers: list[_Answer] = []
    for task in CROP_TASKS.values():
        if task.kind == one.kind:
            crop = crop_region_from_frame(frame, BoundingBox.from_xyxy(xyxy), padding=task.padding)
            reading = models[BRANCH_IDS[task.name]].classify(crop, 0.0)
            is_right = reading.top_class == task.text(task.label(one.brand, one.body, one.plate))
            answers.append(_Answer(task.name, _height_px(one), one.visible, is_right, reading.confidence))
    return answers


def _height_px(one: SeenObject) -> float:
    return one.xyxy[3] - one.xyxy[1]


def _judged(answers: Sequence[_Answer], task: CropTask) -> list[_Answer]:
    return [one for one in answers if one.height_px >= task.judged_px and one.visible >= task.judged_visible]


def _by_height(answers: Sequence[_Answer], task: CropTask) -> dict[str, AnswerFigures]:
    clear = [one for one in answers if one.visible >= task.judged_visible]
    steps = ((8, 12), (12, 16), (16, 20), (20, 28), (28, 100))
    return {
        f"{low} to {high} px": _answer_figures([one for one in clear if low <= one.height_px < high])
        for low, high in steps
    }


def _answer_figures(answers: Sequence[_Answer]) -> AnswerFigures:
    answered = [one for one in answers if one.confidence >= MIN_CONFIDENCE]
    return AnswerFigures(
        crops=len(answers),
        right=sum(one.is_right for one in answers) / max(1, len(answers)),
        answered=len(answered) / max(1, len(answers)),
        right_of_answered=sum(one.is_right for one in answered) / max(1, len(answered)),
    )


async def _facts(archive: Path) -> dict[TaskName, ModelFacts]:
    """Measure size and speed of each model, alone on one core."""
    files = packed_models(archive)
    with tempfile.TemporaryDirectory() as folder:
        loaded = await _load(archive, Path(folder))
        facts: dict[TaskName, ModelFacts] = {}
        for task in TASK_NAMES:
            model = loaded.models[MODEL_ID if task == "detector" else BRANCH_IDS[task]]
            input_hw = model.spec.input_hw
            compiled = model.compiled_for(input_hw[::-1])
            image = np.random.default_rng(0).integers(0, 255, (*input_hw, 3), np.uint8)
            times_ms = []
            for _ in range(_TIMED_RUNS):
                began_s = time.perf_counter()
                compiled.infer(image)
                times_ms.append((time.perf_counter() - began_s) * 1000)
            facts[task] = ModelFacts(len(files[task]), input_hw, statistics.median(times_ms))
        loaded.close()
    return facts
