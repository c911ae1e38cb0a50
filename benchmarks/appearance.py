"""Measures how well looks tell vehicles apart: which share of pairs of one vehicle, and of two, would be refused.

Scenes of the simulator: vehicles that stand at one place one after the other, seen with a detector's slips,
compression, now and then a person before them, on the way in, and in other light. The two street clips beside the
project (``../shared/assets`` or DETECTOR_WORKER_ASSETS), tracked by YOLOX-nano, and the same crops in changed light;
without them only scenes are measured. Runs in the project's own environment, for about two minutes.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, product
from typing import Any, Final, NamedTuple

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from pictures import ASSETS, as_frame

from detector_worker.core.entities import BoundingBox
from detector_worker.detection.appearance import ALIKE, Appearance, describe, likeness
from detector_worker.detection.best_shots import is_cut
from detector_worker.detection.tracking_manager import TrackingManager, unsure_confidence
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.models.model_manager import ModelConfig, ModelManager
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime
from detector_worker.simulator.scenes.geometry import PICTURE_WH, STOP_DISTANCES_M, SceneCamera
from detector_worker.simulator.scenes.light import LIGHTS, Light
from detector_worker.simulator.scenes.people import Walker
from detector_worker.simulator.scenes.stage import Person, Stage, Vehicle
from detector_worker.simulator.scenes.vehicle_art import Look

Picture = NDArray[np.uint8]
CLIPS: Final = {"traffic_side.mp4": 1, "street_parked.mp4": 2}
"""With every how many frames are taken."""
COCO: Final = {2: "car", 3: "motorcycle", 5: "bus", 7: "truck"}
MIN_CONFIDENCE: Final = 0.5
REFUSED_SHARE: Final = 0.005
"""So many of one vehicle's pairs may be refused, for a set's own threshold."""
VEHICLES_OF_A_PLACE: Final = 8
SIGHTS_OF_A_TRACK: Final = 12
SLIP: Final = 0.04
"""How far a detector's box may be off at each side, of its width or height."""


class Sight(NamedTuple):
    """One vehicle at one moment."""

    crop: Picture
    looks: Appearance


@dataclass(slots=True)
class Pairs:
    """Likenesses of pairs in one kind of circumstances."""

    name: str
    same: list[float]
    different: list[float]


@dataclass(frozen=True, slots=True)
class Row:
    """What one threshold does to them; shares are 0 to 1."""

    name: str
    same_pairs: int
    different_pairs: int
    refused: float
    told_apart: float
    own_threshold: float
    told_apart_at_own: float


def main() -> int:
    """Print a row for each set of pairs; 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", type=int, default=20, help="scenes' places, each in five lights, default 20")
    parser.add_argument("--seed", type=int, default=0, help="of the places, default 0")
    parser.add_argument("--threshold", type=float, default=ALIKE, help=f"from where on they are alike, default {ALIKE}")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    sets = [*scene_sets(range(arguments.seed, arguments.seed + arguments.places)), *clip_sets()]
    rows = [row_of(one, arguments.threshold) for one in sets if one.same and one.different]
    if arguments.json:
        told = {"threshold": arguments.threshold, "ms": cost_ms(), "sets": [asdict(row) for row in rows]}
        sys.stdout.write(f"{json.dumps(told)}\n")
        return 0
    sys.stdout.write(f"threshold {arguments.threshold}; {cost_ms():.2f} ms to describe a crop of 300 x 200\n")
    sys.stdout.write(f"{'':34} {'same':>6} {'others':>6} {'refused':>8} {'apart':>6}   own threshold, apart there\n")
    for row in rows:
        sys.stdout.write(
            f"{row.name:34} {row.same_pairs:6} {row.different_pairs:6} {row.refused:8.2%} {row.told_apart:6.1%}"
            f"   {row.own_threshold:6.3f} {row.told_apart_at_own:6.1%}\n"
        )
    return 0


def row_of(pairs: Pairs, threshold: float) -> Row:
    """Count what is refused."""
    same, different = np.array(pairs.same), np.array(pairs.different)
    own = float(np.quantile(same, REFUSED_SHARE))
    shares = (float((ones < limit).mean()) for ones, limit in
              ((same, threshold), (different, threshold), (different, own)))  # fmt: skip
    refused, told_apart, at_own = shares
    return Row(pairs.name, len(same), len(different), refused, told_apart, own, at_own)


def cost_ms() -> float:
    """Return the middle time of a description, milliseconds."""
    crop = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    times_s = []
    for _ in range(200):
        started = time.perf_counter()
        describe(crop)
        times_s.append(time.perf_counter() - started)
    return 1000 * float(np.median(times_s))


def scene_sets(places: Iterable[int]) -> list[Pairs]:
    """Compare vehicles that stand at the same place, within one light and between two."""
    names = ("stands", "drives in", "sun and cloud", "day, dusk, rain, night", "look-alikes")
    sets = {name: Pairs(f"scenes: {name}", [], []) for name in names}
    for place in places:
        standing, arriving = _sights_at(place)
        for light in standing:
            own, way = standing[light], arriving[light]
            _add(sets["stands"], own, own)
            _add(sets["drives in"], own, way)
            _compare(sets["look-alikes"].different, own[0], own[-1])
            sets["look-alikes"].same += [likeness(*pair) for one in own for pair in combinations(one, 2)]
        _add(sets["sun and cloud"], standing["day"], standing["cloud"])
        for first, second in combinations(LIGHTS_OF_A_PLACE, 2):
            _add(sets["day, dusk, rain, night"], standing[first], standing[second])
    return list(sets.values())


LIGHTS_OF_A_PLACE: Final = tuple(dict.fromkeys(LIGHTS))
Looks = list[list[Appearance]]
"""By vehicle; the last one is of the same brand, body and colour as the first."""


def _sights_at(place: int) -> tuple[dict[str, Looks], dict[str, Looks]]:
    """Return by light what vehicles look like standing at a place, and on the way to it."""
    rng = random.Random(f"appearance {place}")
    camera = SceneCamera.random(rng, stop_m=STOP_DISTANCES_M[place % len(STOP_DISTANCES_M)])
    spots = [(side * camera.lane_m, camera.stop_m) for side in (-1, 1)]
    spots += [(camera.bay_x, camera.bay_m)] if camera.has_bay else []
    x, z = rng.choice(spots)
    cars = [
        (Look.random(rng), x + rng.uniform(-0.12, 0.12), z + rng.uniform(0, 0.35)) for _ in range(VEHICLES_OF_A_PLACE)
    ]
    cars[-1] = replace(cars[0][0], plate=cars[-1][0].plate), *cars[-1][1:]
    lights: dict[str, Light] = {name: Light.make(name, rng) for name in LIGHTS_OF_A_PLACE}
    day = lights["day"]
    cloud = replace(day, sun_colour=day.sun_colour * 0.12, ambient=day.ambient * 0.72, shadow=day.shadow * 0.35)
    standing: dict[str, Looks] = {}
    arriving: dict[str, Looks] = {}
    seed = rng.getrandbits(32)
    for name, light in (lights | {"cloud": cloud}).items():
        stage = Stage(camera, light, seed=seed)
        standing[name] = [_seen_thrice(stage, car, rng, 0.0) for car in cars]
        arriving[name] = [_seen_thrice(stage, car, rng, 6.0) for car in cars]
    return standing, arriving


def _seen_thrice(stage: Stage, car: tuple[Look, float, float], rng: random.Random, reach_m: float) -> list[Appearance]:
    look, x, z = car
    seen = [_seen(stage, Vehicle(look, x, z + rng.uniform(0, reach_m)), rng) for _ in range(3)]
    return [looks for looks in seen if looks is not None]


def _seen(stage: Stage, car: Vehicle, rng: random.Random) -> Appearance | None:
    """Describe it as camera and detector give it, if all of it is in the picture; somebody hides one in ten."""
    people = []
    if rng.random() < 0.1:
        place = car.x + rng.uniform(-0.9, 0.9), car.z - rng.uniform(0.6, 1.2)
        people.append(Person(Walker.random(rng), *place, rng.random(), rng.random() < 0.5))
    yuv, seen = stage.picture([car], people, rng.randrange(1000))
    quality = [cv2.IMWRITE_JPEG_QUALITY, rng.randrange(45, 85)]
    image = cv2.imdecode(cv2.imencode(".jpg", cv2.cvtColor(yuv, cv2.COLOR_YUV2BGR_I420), quality)[1], cv2.IMREAD_COLOR)
    x1, y1, x2, y2 = box = next(one.xyxy for one in seen if one.kind == "vehicle")
    if is_cut(BoundingBox(*box), BoundingBox(0, 0, *PICTURE_WH)):
        return None
    slips = [rng.uniform(-SLIP, SLIP) for _ in range(4)]
    left, right = (max(0, int(side + slip * (x2 - x1))) for side, slip in zip((x1, x2), slips[:2], strict=True))
    top, bottom = (max(0, int(side + slip * (y2 - y1))) for side, slip in zip((y1, y2), slips[2:], strict=True))
    return _described(np.asarray(image, np.uint8)[top:bottom, left:right])


def clip_sets() -> Iterator[Pairs]:
    """Compare the vehicles of real footage; nothing where there is none."""
    for clip, every in CLIPS.items() if ASSETS.is_dir() else ():
        tracks = asyncio.run(_tracks_of(clip, every))
        rng = random.Random(clip)
        own = [[sight.looks for sight in track] for track in tracks]
        relit = [[_described(_relit(sight.crop, rng)) for sight in track] for track in tracks]
        for name, others in (("", own), (", changed light", relit)):
            pairs = Pairs(f"{clip}{name}", [], [])
            _add(pairs, own, others)
            yield pairs


async def _tracks_of(clip: str, every: int) -> list[list[Sight]]:
    """Return some sights of each vehicle, spread over its way."""
    settings: dict[str, Any] = {"modelFile": "detector/yolox_nano.onnx", "nms": {"iou": 0.5, "acrossClasses": True}}
    settings |= {"modelId": "yolox", "modelType": "detection", "classes": [COCO.get(one) for one in range(80)]}
    manager = ModelManager(OpenVINORuntime(threads=1, requests=1), memory_budget_bytes=1 << 30)
    detector = YOLODetector(await manager.load_model(ModelConfig.from_dict(settings, folder=ASSETS)))
    tracks, found = TrackingManager(max_lost_seconds=5, high_confidence=MIN_CONFIDENCE), defaultdict(list)
    with av.open(str(ASSETS / "clip" / clip)) as container:
        for number, picture in enumerate(container.decode(video=0)):
            if number % every:
                continue
            frame, bounds = as_frame(picture, number), BoundingBox(0, 0, picture.width, picture.height)
            seen = detector.detect(frame, unsure_confidence(MIN_CONFIDENCE))
            tracked = tracks.update_tracks(seen, number, time_s=float(picture.time or 0), bounds=bounds)
            for one in tracked.results(0.0):
                box = one.bounding_box
                if one.track_id is not None and one.confidence >= MIN_CONFIDENCE and not is_cut(box, bounds):
                    crop = frame.crop((int(box.x1), int(box.y1), int(box.x2), int(box.y2)))
                    found[one.track_id].append((box.area, crop.copy()))
    steady = [crops for one in found.values() if len(crops := _steady(one)) >= SIGHTS_OF_A_TRACK]
    picked = [np.linspace(0, len(crops) - 1, SIGHTS_OF_A_TRACK).astype(int) for crops in steady]
    return [[Sight(crops[one], _described(crops[one])) for one in places]
            for crops, places in zip(steady, picked, strict=True)]  # fmt: skip


def _steady(sights: Sequence[tuple[float, Picture]]) -> list[Picture]:
    """Leave out where the box jumped in size: the detector took two vehicles that passed each other for one."""
    areas = np.array([area for area, _ in sights])
    middle = [float(np.median(areas[max(0, at - 10) : at + 11])) for at in range(len(areas))]
    return [crop for (area, crop), usual in zip(sights, middle, strict=True) if 0.8 < area / usual < 1.25]


def _relit(crop: Picture, rng: random.Random) -> Picture:
    """Change exposure, contrast and white balance about as much as a passing cloud does."""
    gains = np.array([rng.uniform(0.94, 1.06) for _ in range(3)]) * rng.uniform(0.8, 1.2)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, 3, crop.shape)
    return np.clip((crop / 255) ** rng.uniform(0.8, 1.25) * gains * 255 + noise, 0, 255).astype(np.uint8)


def _described(crop: Picture) -> Appearance:
    looks = describe(crop)
    if looks is None:
        raise ValueError("an empty crop")
    return looks


def _add(pairs: Pairs, first: Looks, second: Looks) -> None:
    """Compare each vehicle with itself, with others, but not with its look-alike in scenes."""
    scenes = pairs.name.startswith("scenes")
    for (row, one), (column, other) in product(enumerate(first), enumerate(second)):
        if row == column:
            pairs.same += [likeness(a, b) for a, b in product(one, other) if a is not b]
        elif row < column and not (scenes and (row, column) == (0, VEHICLES_OF_A_PLACE - 1)):
            _compare(pairs.different, one, other)


def _compare(found: list[float], one: Sequence[Appearance], other: Sequence[Appearance]) -> None:
    """Compare a few sights of each."""
    found += [likeness(a, b) for a, b in product(one[2::4], other[2::4])]


if __name__ == "__main__":
    raise SystemExit(main())
