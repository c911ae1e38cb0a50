"""The committed archive of the demo on scenes that its models have never seen."""

from pathlib import Path

import numpy as np
import pytest
from support.loading import new_loader

from detector_worker.cli.demo.command import ARCHIVE
from detector_worker.core.frame import Frame
from detector_worker.detection.box_math import iou_matrix
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.pipeline.pictures import crop_region_from_frame
from detector_worker.simulator.scenes.bodies import BODIES
from detector_worker.simulator.scenes.brands import BRANDS
from detector_worker.simulator.scenes.plates import ALPHABET
from detector_worker.simulator.scenes.stills import STILLS_PER_PLACE, SeenObject, still

FIRST_PLACE = 10_500_000
"""Beyond all places that are set aside for training."""
PLACES, STILLS = 5, 4
BRANCHES = {"brand_v1": "frontal", "bodytype_v1": "vehicle", "plate_v1": "plate"}


def truth_of(one: SeenObject, branch: str) -> str:
    return {"brand_v1": one.brand, "bodytype_v1": one.body, "plate_v1": one.plate}[branch]


def is_plain(one: SeenObject) -> bool:
    """Nobody could miss it, or misread it."""
    least_px = {"vehicle": 60, "frontal": 30, "plate": 22, "person": 60}[one.kind]
    return one.visible > 0.97 and one.xyxy[3] - one.xyxy[1] >= least_px


def sizes_in(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.rglob("*.onnx")]


@pytest.mark.slow
async def test_the_demos_models_see_and_read_what_is_plain_to_see(tmp_path: Path) -> None:
    loaded = await new_loader(tmp_path).load_pipeline(ARCHIVE)
    models = {model_id: YOLODetector(model) for model_id, model in loaded.models.items()}
    detector = models[loaded.config.model_id]
    paddings = {branch.model_id: branch.crop_padding for branch in loaded.config.branches}
    found = dict.fromkeys(("vehicle", "frontal", "plate", "person"), (0, 0))
    right = dict.fromkeys(BRANCHES, (0, 0))
    for number in range(PLACES * STILLS):
        image, seen = still((FIRST_PLACE + number // STILLS) * STILLS_PER_PLACE + number % STILLS)
        frame = Frame(image, camera_id="gate", frame_id=number, time_s=0.0, captured_at=0.0)
        detections = detector.detect(frame)
        for one in filter(is_plain, seen):
            own = [r for r in detections.results(0.0) if r.class_name == one.kind]
            boxes = np.array([(b.x1, b.y1, b.x2, b.y2) for b in (r.bounding_box for r in own)]).reshape(-1, 4)
            overlaps = iou_matrix(np.array([one.xyxy]), boxes)[0]
            is_found = bool(own) and overlaps.max() >= 0.5
            found[one.kind] = found[one.kind][0] + is_found, found[one.kind][1] + 1
            for branch, kind in BRANCHES.items():
                if kind == one.kind and is_found:
                    padding = paddings[branch]
                    crop = crop_region_from_frame(frame, own[int(overlaps.argmax())].bounding_box, padding=padding)
                    reading = models[branch].classify(crop)
                    is_right = reading.top_class == truth_of(one, branch)
                    right[branch] = right[branch][0] + is_right, right[branch][1] + 1

    assert loaded.warnings == ()
    assert all(count >= 5 for _, count in (*found.values(), *right.values())), (found, right)
    assert min(hits / count for hits, count in found.values()) >= 0.9, found
    assert min(hits / count for hits, count in right.values()) >= 0.9, right


async def test_the_demos_models_know_every_brand_body_and_symbol(tmp_path: Path) -> None:
    loaded = await new_loader(tmp_path).load_pipeline(ARCHIVE)
    names = {model_id: model.reading.class_names for model_id, model in loaded.models.items()}
    sizes = sizes_in(tmp_path)

    assert names["brand_v1"] == BRANDS
    assert names["bodytype_v1"] == BODIES
    assert names["plate_v1"] == tuple(ALPHABET)
    assert len(sizes) == 4
    assert sum(sizes) < 6e6
