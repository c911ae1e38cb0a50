"""Packs the real models beside the project into ``build/real-traffic.mpta``: vehicles, their colour and their type.

Looks at ``../shared/assets`` or DETECTOR_WORKER_ASSETS. Run it with ``--json`` for a line that a program can read.
"""

import argparse
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
DETECTOR: Final = Path("detector/yolox_nano.onnx")
ATTRIBUTES: Final = Path("classifier/vehicle-attributes-0039.onnx")

COCO: Final = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign parking_meter "
    "bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee "
    "skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass "
    "cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch "
    "potted_plant bed dining_table toilet tv laptop mouse remote keyboard cell_phone microwave oven toaster sink "
    "refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"
)
VEHICLES: Final = ["car", "truck", "bus", "motorcycle"]
TABLE: Final = "vehicle_visits"


def main() -> int:
    """Pack the archive; 0, or 2 where an asset is absent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "real-traffic.mpta")
    arguments = parser.parse_args()
    assets = Path(os.environ.get("DETECTOR_WORKER_ASSETS", ROOT.parent / "shared" / "assets"))
    missing = [name for name in (DETECTOR, ATTRIBUTES) if not (assets / name).is_file()]
    if missing:
        sys.stderr.write(
            f"The real models are absent: no {missing[0]} in {assets}. "
            "Set DETECTOR_WORKER_ASSETS to the folder that holds them.\n"
        )
        return 2
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(arguments.output, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pipeline.json", json.dumps(pipeline(), indent=1))
        for name in (DETECTOR, ATTRIBUTES):
            archive.write(assets / name, name.name)
    told = {"archive": str(arguments.output), "bytes": arguments.output.stat().st_size}
    print(json.dumps(told) if arguments.json else f"{told['archive']}: {told['bytes']} bytes")  # noqa: T201 - the script's answer
    return 0


def pipeline() -> dict[str, Any]:
    """Return the contents of ``pipeline.json``."""
    return {
        "schemaVersion": 1,
        "pipeline": {
            "modelId": "yolox_nano_coco",
            "modelFile": DETECTOR.name,
            "modelType": "detection",
            "outputLayout": "yolox",
            "classes": [name.replace("_", " ") for name in COCO.split()],
            "minConfidence": 0.6,
            "targetFps": 5,
            "nms": {"iou": 0.5, "acrossClasses": True},
            "triggerClasses": VEHICLES,
            "expectedClasses": VEHICLES,
            "actions": [_create(), *_images(), _publication()],
            "branches": [
                _branch("color", ["white", "gray", "yellow", "red", "green", "blue", "black"]),
                _branch("type", ["car", "bus", "truck", "van"]),
            ],
            "parallelActions": [_update()],
            "tables": {
                TABLE: {
                    "record_id": "uuid primary key",
                    "session_id": "text",
                    "display_id": "text",
                    "camera_id": "text",
                    "captured_timestamp": "timestamptz",
                    "vehicle_class": "text",
                    "confidence": "double precision",
                    "color": "text",
                    "color_confidence": "double precision",
                    "body_type": "text",
                    "body_type_confidence": "double precision",
                }
            },
        },
    }


def _create() -> dict[str, Any]:
    return {
        "type": "postgresql_create_record",
        "table": TABLE,
        "fields": {
            "record_id": "{record_id}",
            "session_id": "{session_id}",
            "display_id": "{display_id}",
            "camera_id": "{camera_id}",
            "captured_timestamp": "{timestamp}",
            "vehicle_class": "{class_name}",
            "confidence": "{confidence}",
        },
    }


def _images() -> list[dict[str, Any]]:
    return [
        {
            "id": f"{region}_image",
            "type": "redis_save_image",
            "region": region,
            "key": f"vehicle:{{display_id}}:{{record_id}}:{region}:{{filename}}",
            "expire_seconds": 3600,
            "format": "jpeg",
            "quality": 90,
        }
        for region in ("best", "frame")
    ]


def _publication() -> dict[str, Any]:
    return {
        "type": "publish_message",
        "channel": "vehicles:{camera_id}",
        "message": {
            "event": "vehicle",
            "record_id": "{record_id}",
            "class": "{class_name}",
            "timestamp": "{timestamp}",
            "image": "{best_image.key}",
        },
    }


def _branch(output: str, classes: list[str]) -> dict[str, Any]:
    """One of the two outputs of the attributes model, which wants plain BGR 0..255."""
    return {
        "modelId": f"vehicle_{output}",
        "modelFile": ATTRIBUTES.name,
        "modelType": "classification",
        "output": output,
        "classes": classes,
        "input": {"color": "bgr", "scale": 1.0},
        "resultField": "body_type" if output == "type" else output,
        "minConfidence": 0.4,
        "parallel": True,
        "crop": True,
        "timeout_seconds": 10,
        "voting": {"frames": 3, "method": "confidence_weighted"},
    }


def _update() -> dict[str, Any]:
    return {
        "type": "postgresql_update_combined",
        "table": TABLE,
        "key_field": "record_id",
        "key_value": "{record_id}",
        "waitForBranches": ["vehicle_color", "vehicle_type"],
        "fields": {
            "color": "{vehicle_color.color}",
            "color_confidence": "{vehicle_color.confidence}",
            "body_type": "{vehicle_type.body_type}",
            "body_type_confidence": "{vehicle_type.confidence}",
        },
    }


if __name__ == "__main__":
    raise SystemExit(main())
