"""Packs the four models and their ``pipeline.json`` into one archive; the same models give the same bytes."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from demo_models.tasks import CROP_TASKS, DETECTOR_CLASSES, MIN_CONFIDENCE, TASK_NAMES, CropTask, TaskName, model_file

__all__ = ["BRANCH_IDS", "MODEL_ID", "pack_archive", "packed_models", "pipeline"]

MODEL_ID: Final = "demo_gate_v1"
BRANCH_IDS: Final = {"brand": "brand_v1", "body": "bodytype_v1", "plate": "plate_v1"}
_RESULT_FIELDS: Final = {"brand": "brand", "body": "body_type", "plate": "plate"}
_TABLE: Final = "gate_visits"
_DATE: Final = (2026, 1, 1, 0, 0, 0)


def pack_archive(path: Path, models: Mapping[TaskName, bytes]) -> None:
    """Write the archive; an older one is replaced at one stroke."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    with zipfile.ZipFile(unfinished, "w") as archive:
        entries = {"pipeline.json": json.dumps(pipeline(), indent=1).encode()}
        entries |= {model_file(task): models[task] for task in TASK_NAMES}
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, compresslevel=9)
    unfinished.replace(path)


def packed_models(path: Path) -> dict[TaskName, bytes]:
    """Read the models of an archive; empty where there is none."""
    if not path.is_file():
        return {}
    with zipfile.ZipFile(path) as archive:
        return {task: archive.read(model_file(task)) for task in TASK_NAMES}


def pipeline() -> dict[str, Any]:
    """Return the contents of ``pipeline.json``."""
    return {
        "schemaVersion": 1,
        "pipeline": {
            "modelId": MODEL_ID,
            "modelFile": model_file("detector"),
            "modelType": "detection",
            "outputLayout": "yolov8",
            "classes": list(DETECTOR_CLASSES),
            "minConfidence": MIN_CONFIDENCE,
            "nms": {"iou": 0.5},
            "targetFps": 5,
            "triggerClasses": ["vehicle"],
            "expectedClasses": ["vehicle"],
            "requiredClasses": ["frontal"],
            "stability": {"minFrames": 4, "minSeconds": 1.5, "minIou": 0.5, "reentrySeconds": 3},
            "actions": [_create(), _image("vehicle", "best"), _image("frame", "frame"), _publication()],
            "branches": [_branch(task) for task in CROP_TASKS.values()],
            "parallelActions": [_update()],
            "tables": {_TABLE: _columns()},
        },
    }


def _columns() -> dict[str, str]:
    columns = {
        "record_id": "uuid primary key",
        "camera_id": "text",
        "display_id": "text",
        "session_id": "text",
        "captured_timestamp": "timestamptz",
        "frame_id": "bigint",
    }
    columns |= dict.fromkeys(("x1", "y1", "x2", "y2", "confidence"), "double precision")
    for field in _RESULT_FIELDS.values():
        columns |= {field: "text", f"{field}_confidence": "double precision"}
    return columns


def _create() -> dict[str, Any]:
    fields = {name: f"{{{name}}}" for name in ("record_id", "camera_id", "display_id", "session_id")}
    fields |= {"captured_timestamp": "{timestamp}", "frame_id": "{frame_id}", "confidence": "{confidence}"}
    fields |= {corner: f"{{bbox.{corner}}}" for corner in ("x1", "y1", "x2", "y2")}
    return {"type": "postgresql_create_record", "table": _TABLE, "fields": fields}


def _image(name: str, region: str) -> dict[str, Any]:
    return {
        "id": f"{name}_image",
        "type": "redis_save_image",
        "region": region,
        "key": f"gate:{{display_id}}:{{record_id}}:{name}",
        "expire_seconds": 3600,
    }


def _publication() -> dict[str, Any]:
    message = {"event": "visit", "record_id": "{record_id}", "display_id": "{display_id}", "timestamp": "{timestamp}"}
    message |= {"vehicle_image": "{vehicle_image.key}", "frame_image": "{frame_image.key}"}
    return {"type": "publish_message", "channel": "gate:{camera_id}", "message": message}


def _branch(task: CropTask) -> dict[str, Any]:
    branch: dict[str, Any] = {
        "modelId": BRANCH_IDS[task.name],
        "modelFile": model_file(task.name),
        "modelType": "classification" if task.slots == 1 else "ocr",
        "outputLayout": "classification" if task.slots == 1 else "textSlots",
        "classes" if task.slots == 1 else "alphabet": list(task.symbols),
        "minConfidence": MIN_CONFIDENCE,
        "resultField": _RESULT_FIELDS[task.name],
        "crop": True,
        "cropClass": task.kind,
        "cropPadding": task.padding,
        "parallel": True,
        "timeout_seconds": 10,
        # Whoever is seen from behind, or half hidden, shows neither front nor plate; a vehicle is there in any case.
        "required": task.kind == "vehicle",
        # A plate that is hidden in one picture is read differently there each time: such readings are outvoted.
        "voting": {"frames": 3, "method": "confidence_weighted" if task.slots == 1 else "majority"},
    }
    return branch


def _update() -> dict[str, Any]:
    fields: dict[str, str] = {}
    for name, field in _RESULT_FIELDS.items():
        branch = BRANCH_IDS[name]
        fields |= {field: f"{{{branch}.{field}}}", f"{field}_confidence": f"{{{branch}.confidence}}"}
    return {
        "type": "postgresql_update_combined",
        "table": _TABLE,
        "key_field": "record_id",
        "key_value": "{record_id}",
        "waitForBranches": list(BRANCH_IDS.values()),
        "fields": fields,
    }
