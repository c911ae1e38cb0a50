"""The samples that the demo models learn from: scene pictures, rendered once into a folder by several processes.

Places with their light are split between learning and judging, so neither a picture nor its background is in both.
"""

import hashlib
import random
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from demo_models.progress import Progress, say
from demo_models.tasks import CROP_TASKS, DETECTOR_CLASSES, PICTURE_WH, CropTask, CropTaskName, is_labelled
from detector_worker.core.entities import BoundingBox
from detector_worker.pipeline.pictures import box_region
from detector_worker.simulator import scenes
from detector_worker.simulator.scenes.stills import STILLS_PER_PLACE, SeenObject, still

__all__ = [
    "MAX_RUN_SEED",
    "CropSamples",
    "PictureSamples",
    "cut_out",
    "evaluation_seeds",
    "load_crops",
    "load_pictures",
    "render_samples",
]

Image = NDArray[np.uint8]

MAX_RUN_SEED: Final = 999
_PLACES_PER_RUN: Final = 10_000
_FIRST_EVALUATION_PLACE: Final = (MAX_RUN_SEED + 1) * _PLACES_PER_RUN
"""Learning uses the places below, whatever its seed is, judging this one and those above: they cannot meet."""
_STILLS_LEARNED_PER_PLACE: Final = 30
_STILLS_JUDGED_PER_PLACE: Final = 10
_JPEG_QUALITY: Final = 92


@dataclass(frozen=True, eq=False)
class PictureSamples:
    """Pictures for the detector.

    Attributes:
        jpegs: Each 640 x 360.
        objects: One array a picture, shape (N, 6), float32: class id, x1, y1, x2, y2 in its pixels, and 1 where the
            object should be found, 0 where it may be.
    """

    jpegs: tuple[bytes, ...]
    objects: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True, eq=False)
class CropSamples:
    """Crops for one of the other models.

    Attributes:
        images: Shape (N, H, W, 3), uint8 BGR, as the worker would hand them over.
        labels: Shape (N, slots), int64.
    """

    images: Image
    labels: NDArray[np.int64]


def evaluation_seeds(stills: int) -> list[int]:
    """Return seeds whose pictures nothing was ever trained on; all places have an equal share."""
    return _seeds(_FIRST_EVALUATION_PLACE, stills, _STILLS_JUDGED_PER_PLACE)


def _training_seeds(run_seed: int, stills: int) -> list[int]:
    if not 0 <= run_seed <= MAX_RUN_SEED or stills > _PLACES_PER_RUN * _STILLS_LEARNED_PER_PLACE:
        raise ValueError(f"no places are set aside for run {run_seed} with {stills} pictures")
    return _seeds(run_seed * _PLACES_PER_RUN, stills, _STILLS_LEARNED_PER_PLACE)


def _seeds(first_place: int, stills: int, per_place: int) -> list[int]:
    places = (first_place + number // per_place for number in range(stills))
    return [place * STILLS_PER_PLACE + number % per_place for number, place in enumerate(places)]


def cut_out(image: Image, xyxy: Sequence[float], task: CropTask) -> Image:
    """Cut a box out of a picture and bring it into a model's input, as the worker's branches do."""
    x1, y1, x2, y2 = box_region(BoundingBox(*map(float, xyxy)), padding=task.padding)
    crop = image[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)]
    return np.asarray(cv2.resize(crop, task.input_hw[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def render_samples(folder: Path, *, run_seed: int, stills: int, workers: int) -> Path:
    """Render all samples of a run, or find them; returns their folder, a new one for other scenes or settings."""
    ready = folder / f"samples-{_fingerprint(run_seed, stills)}"
    for old in set(folder.glob("samples-*")) - {ready}:
        shutil.rmtree(old)
    ready.mkdir(parents=True, exist_ok=True)
    seeds = _training_seeds(run_seed, stills)
    shards = [seeds[first : first + _STILLS_LEARNED_PER_PLACE] for first in range(0, stills, _STILLS_LEARNED_PER_PLACE)]
    missing = [(ready / f"{shard[0]}.npz", shard) for shard in shards if not (ready / f"{shard[0]}.npz").is_file()]
    if not missing:
        say(f"rendering: {stills} pictures are in {ready} already")
        return ready
    progress = Progress("rendering", sum(len(shard) for _, shard in missing))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_render_shard, path, shard) for path, shard in missing]):
            progress.advance(done.result())
    return ready


def load_pictures(folder: Path) -> PictureSamples:
    """Read the detector's samples."""
    jpegs: list[bytes] = []
    objects: list[NDArray[np.float32]] = []
    for shard in _shards(folder):
        content, ends = shard["jpegs"].tobytes(), shard["jpeg_ends"]
        jpegs += [content[begin:end] for begin, end in zip((0, *ends[:-1]), ends, strict=True)]
        objects += np.split(shard["objects"], shard["object_ends"][:-1])
    return PictureSamples(tuple(jpegs), tuple(objects))


def load_crops(folder: Path, task: CropTaskName) -> CropSamples:
    """Read the samples of another model."""
    shards = [(shard[f"{task}_images"], shard[f"{task}_labels"]) for shard in _shards(folder)]
    return CropSamples(*(np.concatenate(part) for part in zip(*shards, strict=True)))


def _shards(folder: Path) -> Iterator[Any]:
    for path in sorted(folder.glob("[0-9]*.npz")):
        with np.load(path) as shard:
            yield shard


def _fingerprint(run_seed: int, stills: int) -> str:
    """Name what decides how samples look: the scenes, this module, and what was asked for."""
    digest = hashlib.sha256(f"{run_seed} {stills}".encode())
    sources = [path for path in Path(scenes.__path__[0]).glob("*.*") if path.suffix in {".py", ".png"}]
    for path in (*sorted(sources), Path(__file__), Path(__file__).with_name("tasks.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _render_shard(path: Path, seeds: Sequence[int]) -> int:
    """Render the pictures of one place into a file; runs in a process of its own."""
    cv2.setNumThreads(1)
    jpegs: list[bytes] = []
    rows: list[NDArray[np.float32]] = []
    crops: dict[CropTaskName, list[Image]] = {name: [] for name in CROP_TASKS}
    labels: dict[CropTaskName, list[tuple[int, ...]]] = {name: [] for name in CROP_TASKS}
    for seed in seeds:
        image, seen = still(seed)
        small = cv2.resize(image, PICTURE_WH, interpolation=cv2.INTER_LINEAR)
        jpegs.append(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes())
        rows.append(np.array([_row(one, PICTURE_WH[0] / image.shape[1]) for one in seen], np.float32).reshape(-1, 6))
        rng = random.Random(seed)
        for task in CROP_TASKS.values():
            for one in (one for one in seen if _is_learned(one, task)):
                label = task.label(one.brand, one.body, one.plate)
                crops[task.name] += [cut_out(image, _jittered(one.xyxy, rng), task) for _ in range(task.copies)]
                labels[task.name] += [label] * task.copies
    content: dict[str, Any] = {"jpegs": np.frombuffer(b"".join(jpegs), np.uint8), "objects": np.concatenate(rows)}
    content |= {
        "jpeg_ends": np.cumsum([len(one) for one in jpegs]),
        "object_ends": np.cumsum([len(row) for row in rows]),
    }
    for name, task in CROP_TASKS.items():
        content[f"{name}_images"] = np.array(crops[name], np.uint8).reshape(-1, *task.input_hw, 3)
        content[f"{name}_labels"] = np.array(labels[name], np.int64).reshape(-1, task.slots)
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        np.savez(file, **content)
    unfinished.replace(path)
    return len(seeds)


def _row(one: SeenObject, scale: float) -> tuple[float, ...]:
    x1, y1, x2, y2 = one.xyxy
    is_certain = is_labelled(one.kind, y2 - y1, one.visible)
    return DETECTOR_CLASSES.index(one.kind), x1 * scale, y1 * scale, x2 * scale, y2 * scale, is_certain


def _is_learned(one: SeenObject, task: CropTask) -> bool:
    height_px = one.xyxy[3] - one.xyxy[1]
    return one.kind == task.kind and height_px >= task.learned_px and one.visible >= task.learned_visible


def _jittered(xyxy: Sequence[float], rng: random.Random) -> list[float]:
    """Move each edge as a detector's boxes are off: by about a pixel, and more where the box is large."""
    sides = (xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]) * 2
    limits = ((1.0 + 0.02 * side, 0.12 * side) for side in sides)
    off = (max(-most, min(most, rng.gauss(0, sigma))) for sigma, most in limits)
    return [edge + one for edge, one in zip(xyxy, off, strict=True)]
