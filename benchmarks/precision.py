"""Measures what changes a detector's boxes: bf16 in place of f32, and the live way of a frame in place of OpenCV's.

Live frames are resized by swscale straight from YUV; pictures by OpenCV from full BGR. Runs in the project's own
environment. The real models are those beside the project (``../shared/assets`` or DETECTOR_WORKER_ASSETS); without
them only the demo's detector is measured.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from box_comparison import BoxComparison, Pair, pair_boxes
from pictures import ASSETS, as_frame, clip_frames, photographs, scene_stills

from detector_worker.core.entities import Detections
from detector_worker.core.frame import Frame
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.models.model_manager import ModelConfig, ModelManager
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime
from detector_worker.models.runtimes.runtime import Precision

DEMO: Final = Path(__file__).parents[1] / "detector_worker" / "simulator" / "demo.mpta"
LEAST_IOU, MOST_CONFIDENCE_APART = 0.98, 0.02
"""Within these two boxes agree."""


@dataclass(frozen=True, slots=True)
class Case:
    """A detector with pictures for it."""

    name: str
    config: ModelConfig
    thresholds: tuple[float, ...]
    frames: Sequence[Frame]


class Answers(NamedTuple):
    """What was found in each picture, and the middle time of one."""

    found: list[Detections]
    ms: float


def main() -> int:
    """Print a row for each detector, change and threshold; 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=200, help="scenes for the demo's detector, default 200")
    parser.add_argument("--every", type=int, default=8, help="take every so many-th frame of the clips, default 8")
    parser.add_argument("--model", default="", help="only detectors whose name holds this")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = [demo_case(Path(folder), arguments.pictures), *real_cases(arguments.every)]
        rows = [row for case in cases if arguments.model in case.name for row in measure(case)]
    if arguments.json:
        sys.stdout.write(f"{json.dumps(rows)}\n")
        return 0
    for row in rows:
        told = (f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
        sys.stdout.write("  ".join(told) + "\n")
    return 0


def demo_case(folder: Path, pictures: int) -> Case:
    """Take the detector out of the demo's archive."""
    with zipfile.ZipFile(DEMO) as archive:
        archive.extractall(folder)
    config = ModelConfig.from_dict(json.loads((folder / "pipeline.json").read_bytes())["pipeline"], folder=folder)
    return Case("demo", config, (config.settings.min_confidence,), [as_frame(one) for one in scene_stills(pictures)])


def real_cases(every: int) -> list[Case]:
    """Name the real detectors; none where the assets are absent."""
    if not ASSETS.is_dir():
        return []
    frames = [*map(as_frame, clip_frames(every)), *map(as_frame, photographs())]
    coco = {"modelFile": "detector/yolox_nano.onnx", "nms": {"iou": 0.5, "acrossClasses": True}}
    plates = {"modelFile": "plate/vehicle-license-plate-detection-barrier-0106.xml"}
    return [
        Case("yolox_nano", _config("yolox_nano", coco), (0.6, 0.3), frames),
        Case("0201", _config("0201", {"modelFile": "detector/vehicle-detection-0201.xml"}), (0.5, 0.3), frames),
        Case("barrier-0106", _config("barrier-0106", plates), (0.5, 0.3), frames),
    ]


def _config(name: str, settings: dict[str, Any]) -> ModelConfig:
    return ModelConfig.from_dict({"modelId": name, "modelType": "detection", **settings}, folder=ASSETS)


def measure(case: Case) -> Iterator[dict[str, Any]]:
    """Compare at each threshold."""
    least = min(case.thresholds)
    as_bgr = [as_frame(frame.bgr()) for frame in case.frames]
    f32, bf16 = (asyncio.run(_detect_all(case, case.frames, one, least)) for one in ("f32", "bf16"))
    opencv = asyncio.run(_detect_all(case, as_bgr, "f32", least))
    for threshold in case.thresholds:
        yield _row(case, "f32 to bf16", threshold, f32, bf16)
        if case.name != "demo":  # whose scenes are BGR from the beginning
            yield _row(case, "OpenCV to swscale", threshold, opencv, f32)


async def _detect_all(case: Case, frames: Sequence[Frame], precision: Precision, threshold: float) -> Answers:
    manager = ModelManager(OpenVINORuntime(threads=1, requests=1), memory_budget_bytes=4 << 30)
    detector = YOLODetector(await manager.load_model(case.config, precision=precision))
    found, times_s = [], []
    for frame in (*frames[:1], *frames):  # the first picture warms up
        started = time.perf_counter()
        found.append(detector.detect(frame, threshold))
        times_s.append(time.perf_counter() - started)
    return Answers(found[1:], 1000 * float(np.median(times_s[1:])))


def _row(case: Case, change: str, threshold: float, before: Answers, after: Answers) -> dict[str, Any]:
    pictures = [
        pair_boxes(*(one.select(np.flatnonzero(one.confidence >= threshold)) for one in both))
        for both in zip(before.found, after.found, strict=True)
    ]
    told = {"model": case.name, "change": change, "threshold": threshold}
    told |= asdict(BoxComparison.of(pictures, threshold=threshold))
    disagreeing = sum(not _agrees(pair) for picture in pictures for pair in picture)
    return told | {"disagreeing": disagreeing, "ms_before": before.ms, "ms_after": after.ms}


def _agrees(pair: Pair) -> bool:
    return pair.iou >= LEAST_IOU and pair.confidence_apart <= MOST_CONFIDENCE_APART


if __name__ == "__main__":
    raise SystemExit(main())
