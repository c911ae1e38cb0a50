"""How long the trackers take for a frame of many objects: a made-up scene, the same for all, in turns."""

import time
from typing import Final

import numpy as np

from benchmarks.tracking.contenders import CONTENDERS, OURS
from benchmarks.tracking.mot_files import FoundBoxes
from detector_worker.core.entities import BoundingBox

__all__ = ["ms_per_frame", "peers_over_ours"]

_FPS: Final = 25.0
_FRAMES: Final = 60
_ROUNDS: Final = 7
_PICTURE: Final = BoundingBox(0, 0, 1920, 1080)
_MISSED: Final = 0.05
_UNSURE: Final = 0.1


def ms_per_frame(objects: int) -> dict[str, float]:
    """Return the milliseconds a frame that each tracker takes for so many objects: the quickest of some rounds."""
    scene = _scene(objects)
    taken: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(_ROUNDS):
        for name, contender in CONTENDERS.items():
            follower = contender.begin(_FPS, _PICTURE)
            frames = [follower.prepared(found) for found in scene]
            began_s = time.perf_counter()
            for frame in frames:
                follower.update(frame)
            taken[name].append((time.perf_counter() - began_s) * 1e3 / len(frames))
    return {name: min(rounds) for name, rounds in taken.items()}


def peers_over_ours(ms: dict[str, float]) -> float:
    """Return how many times longer the fastest peer takes than ours does."""
    return min(value for name, value in ms.items() if name != OURS) / ms[OURS]


def _scene(objects: int) -> list[FoundBoxes]:
    """Return the detections of objects that go straight on, with what a detector adds: noise, gaps and doubts."""
    rng = np.random.default_rng(1)
    centre, wh = rng.uniform((0, 0), (1920, 1080), (objects, 2)), rng.uniform(40, 120, (objects, 2))
    step = rng.uniform(-3, 3, (objects, 2))
    frames = []
    for _ in range(_FRAMES):
        centre = (centre + step) % (1920, 1080)
        xyxy = np.concatenate((centre - wh / 2, centre + wh / 2), axis=1) + rng.normal(0, 1.5, (objects, 4))
        confidence = np.where(rng.random(objects) < _UNSURE, 0.3, 0.9)
        seen = rng.random(objects) >= _MISSED
        frames.append(FoundBoxes(confidence[seen].astype(np.float32), xyxy[seen].astype(np.float32)))
    return frames
