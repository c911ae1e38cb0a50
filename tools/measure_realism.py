"""Prints how many scene vehicles a detector recognises that has never seen a scene: YOLOX-nano, trained on photographs.

Needs the real models beside the project (``../shared/assets`` or DETECTOR_WORKER_ASSETS).
"""

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import Final

import numpy as np

from detector_worker.core.frame import Frame
from detector_worker.detection.box_math import iou_matrix
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.models.model_manager import ModelConfig, ModelManager
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime
from detector_worker.simulator.scenes.light import LIGHTS
from detector_worker.simulator.scenes.stills import STILLS_PER_PLACE, still

ASSETS: Final = Path(os.environ.get("DETECTOR_WORKER_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))
CARS: Final = {2, 5, 7}
"""COCO's car, bus and truck."""
FIRST_PLACE: Final = 900_000
STILLS_OF_A_PLACE: Final = 8


def main() -> int:
    """Print the recall for each light."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=120, help="how many, default 120")
    parser.add_argument("--confidence", type=float, default=0.25, help="least confidence, default 0.25")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    if not (ASSETS / "detector/yolox_nano.onnx").is_file():
        parser.error(f"the real models are absent: no detector/yolox_nano.onnx in {ASSETS}")
    counts = asyncio.run(_measure(arguments.pictures, arguments.confidence))
    recall = {light: round(found / total, 3) for light, (found, total) in counts.items() if total}
    total = sum(total for _, total in counts.values())
    told = {"vehicles": total, "recall": recall, "iou": 0.5, "confidence": arguments.confidence}
    print(json.dumps(told) if arguments.json else f"recall of YOLOX-nano at IoU 0.5 on {total} vehicles: {recall}")  # noqa: T201 - the script's answer
    return 0


async def _measure(pictures: int, confidence: float) -> dict[str, tuple[int, int]]:
    """Count by light the vehicles that are found, and all that nothing hides."""
    manager = ModelManager(OpenVINORuntime(threads=2, requests=1), memory_budget_bytes=2**30)
    settings = {"modelId": "yolox", "modelFile": "yolox_nano.onnx", "modelType": "detection", "outputLayout": "yolox"}
    detector = await YOLODetector.load_model(manager, ModelConfig.from_dict(settings, folder=ASSETS / "detector"))
    counts = dict.fromkeys(("day", "dusk", "rain", "night"), (0, 0))
    for number in range(pictures):
        place = FIRST_PLACE + number // STILLS_OF_A_PLACE
        image, seen = still(place * STILLS_PER_PLACE + number % STILLS_OF_A_PLACE)
        found = detector.detect(Frame(image, camera_id="", frame_id=number, time_s=0, captured_at=0), confidence)
        found = found.select(np.isin(found.class_id, list(CARS)))
        wanted = np.array([one.xyxy for one in seen if one.kind == "vehicle" and one.visible > 0.95]).reshape(-1, 4)
        hits = (iou_matrix(wanted, found.xyxy.astype(np.float64)) >= 0.5).any(axis=1).sum() if len(found) else 0
        light = LIGHTS[place % len(LIGHTS)]
        counts[light] = counts[light][0] + int(hits), counts[light][1] + len(wanted)
    return counts


if __name__ == "__main__":
    raise SystemExit(main())
