"""Shows that the worker finds the boxes that Ultralytics' own prediction finds, on the same exports and pictures.

Runs in an environment of its own (see README.md). The networks have random weights (see reference_models.py). Exit
code 1: a box is lost, new, or more than 1 px or 0.01 off; within 0.01 of the threshold it may be on either side.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}  # read by the next

from box_comparison import BoxComparison, pair_boxes
from pictures import ASSETS, as_frame, clip_frames, photographs
from reference_models import IOU, KINDS, Kind, Picture, export
from rich.console import Console
from rich.table import Table
from ultralytics import RTDETR, YOLO

from detector_worker.core.entities import Detections
from detector_worker.core.exceptions import ModelLoadError
from detector_worker.core.frame import Frame
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.models.model_manager import ModelConfig, ModelManager
from detector_worker.models.runtimes.onnx_runtime import OnnxRuntime
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime
from detector_worker.models.runtimes.runtime import InferenceRuntime

RUNTIMES: Final[dict[str, Callable[[], InferenceRuntime]]] = {
    "openvino": lambda: OpenVINORuntime(threads=2, requests=1),
    "onnxruntime": lambda: OnnxRuntime(device="cpu", threads=2, requests=1),
}
MOST_APART_PX, MOST_CONFIDENCE_APART = 1.0, 0.01
MAX_BOXES: Final = 1000
CALIBRATION_EVERY: Final = 200
"""So many frames lie between two that spread a network's answers."""


@dataclass(frozen=True, slots=True)
class Row:
    """One network on one runtime."""

    model: str
    runtime: str
    layout: str
    figures: BoxComparison | None
    """None where the worker refused the network."""

    @property
    def agrees(self) -> bool:
        """Whether all boxes are the same within the limits."""
        if (figures := self.figures) is None:
            return False
        is_near = figures.max_apart_px <= MOST_APART_PX and figures.max_confidence_apart <= MOST_CONFIDENCE_APART
        return is_near and not figures.lost and not figures.new


def main() -> int:
    """Print a row for each network and runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path(__file__).parents[1] / "build" / "reference-models")
    parser.add_argument("--model", default="", help="only networks whose name holds this")
    parser.add_argument("--every", type=int, default=100, help="take every so many-th frame of the clips, default 100")
    parser.add_argument("--confidence", type=float, default=0.1, help="least confidence, default 0.1")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    if not ASSETS.is_dir():
        parser.error(f"the pictures are absent: no folder {ASSETS}")
    logging.getLogger("ultralytics").setLevel(logging.ERROR)
    arguments.models.mkdir(parents=True, exist_ok=True)
    kinds = [kind for kind in KINDS if arguments.model in kind.name]
    rows = [row for kind in kinds for row in compare(kind, arguments)]
    _show(rows, as_json=arguments.json)
    return int(not all(row.agrees for row in rows))


def compare(kind: Kind, arguments: argparse.Namespace) -> list[Row]:
    """Let the reference and each of our runtimes look at the same pictures."""
    calibration = [as_frame(frame).bgr() for frame in clip_frames(CALIBRATION_EVERY)]
    path = export(kind, arguments.models, [*calibration, *photographs()])
    images = [*(as_frame(frame).bgr() for frame in clip_frames(arguments.every)), *photographs()]
    expected, frames = _predict(kind, path, images, arguments.confidence), [as_frame(image) for image in images]
    rows = []
    for runtime in RUNTIMES:
        try:
            detector = asyncio.run(_load(path, runtime))
        except ModelLoadError as exc:
            sys.stderr.write(f"{exc}\n")
            rows.append(Row(kind.name, runtime, "refused", None))
            continue
        figures = _figures(expected, detector, frames, arguments.confidence)
        rows.append(Row(kind.name, runtime, detector.model.reading.layout, figures))
    return rows


def _predict(kind: Kind, path: Path, images: Sequence[Picture], confidence: float) -> list[Detections]:
    """Ask the reference."""
    model = RTDETR(path) if kind.is_detr else YOLO(path, task="detect")
    found = []
    for image in images:
        boxes = model.predict(image, conf=confidence, iou=IOU, max_det=MAX_BOXES, verbose=False, device="cpu")[
            0
        ].boxes.numpy()
        names = tuple(model.names.values())
        # Ultralytics clips all boxes to the picture but those of its RT-DETR.
        xyxy = boxes.xyxy.clip(0, (image.shape[1], image.shape[0]) * 2)
        predicted = Detections(xyxy, boxes.conf, boxes.cls.astype("int32"), names)
        # Random weights also give boxes inside out, or wholly in the padding: the worker drops what has no area.
        found.append(predicted.select((xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)))
    return found


async def _load(path: Path, runtime: str) -> YOLODetector:
    settings: dict[str, Any] = {"modelId": path.stem, "modelFile": path.name, "modelType": "detection"}
    if not path.stem.endswith(("-nms", "10n", "26n", "rtdetr-l")):
        settings["nms"] = {"iou": IOU}
    manager = ModelManager(RUNTIMES[runtime](), memory_budget_bytes=4 << 30)
    return await YOLODetector.load_model(manager, ModelConfig.from_dict(settings, folder=path.parent))


def _figures(
    expected: Sequence[Detections], detector: YOLODetector, frames: Sequence[Frame], confidence: float
) -> BoxComparison:
    pairs = [
        pair_boxes(reference, detector.detect(frame, confidence))
        for reference, frame in zip(expected, frames, strict=True)
    ]
    return BoxComparison.of(pairs, threshold=confidence, margin=MOST_CONFIDENCE_APART)


def _show(rows: Sequence[Row], *, as_json: bool) -> None:
    told: list[dict[str, Any]] = [
        {"model": row.model, "runtime": row.runtime, "layout": row.layout}
        | (asdict(row.figures) if row.figures else {})
        | {"agrees": row.agrees}
        for row in rows
    ]
    if as_json:
        sys.stdout.write(f"{json.dumps(told)}\n")
        return
    table = Table(*max(told, key=len))
    for one in told:
        values = (one.get(str(column.header), "") for column in table.columns)
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in values))
    Console(width=160).print(table)


if __name__ == "__main__":
    raise SystemExit(main())
