"""Packs the real models beside the project into two archives in ``build``.

``real-traffic.mpta``: vehicles, their colour and their type. ``real-plates.mpta``: the same, and what their plates say.
Looks at ``../shared/assets`` or DETECTOR_WORKER_ASSETS. With ``--json`` it tells a program what it made.
"""

import argparse
import json
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
DETECTOR: Final = Path("detector/yolox_nano.onnx")
ATTRIBUTES: Final = Path("classifier/vehicle-attributes-0039.onnx")
PLATE_DETECTOR: Final = Path("plate/vehicle-license-plate-detection-barrier-0106.xml")
PLATE_READER: Final = Path("plate/license-plate-recognition-barrier-0007.xml")
TRAFFIC_FILES: Final = (DETECTOR, ATTRIBUTES)
PLATES_FILES: Final = (
    ATTRIBUTES,
    *(path.with_suffix(suffix) for path in (PLATE_DETECTOR, PLATE_READER) for suffix in (".xml", ".bin")),
)

COCO: Final = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign parking_meter "
    "bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee "
    "skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass "
    "cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch "
    "potted_plant bed dining_table toilet tv laptop mouse remote keyboard cell_phone microwave oven toaster sink "
    "refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"
)
VEHICLES: Final = ["car", "truck", "bus", "motorcycle"]
COLORS: Final = ["white", "gray", "yellow", "red", "green", "blue", "black"]
TYPES: Final = ["car", "bus", "truck", "van"]
PROVINCES: Final = (
    "Anhui Beijing Chongqing Fujian Gansu Guangdong Guangxi Guizhou Hainan Hebei Heilongjiang Henan HongKong Hubei "
    "Hunan InnerMongolia Jiangsu Jiangxi Jilin Liaoning Macau Ningxia Qinghai Shaanxi Shandong Shanghai Shanxi "
    "Sichuan Tianjin Tibet Xinjiang Yunnan Zhejiang police"
)
PLATE_SYMBOLS: Final = [
    *"0123456789",
    *(f"<{name}>" for name in PROVINCES.split()),
    *"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
]
TABLE: Final = "vehicle_visits"
PLATE_TABLE: Final = "plate_visits"


def main() -> int:
    """Pack the archives; 0, or 2 where an asset is absent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "real-traffic.mpta")
    parser.add_argument("--plates-output", type=Path, help="default: real-plates.mpta beside the other")
    arguments = parser.parse_args()
    assets = Path(os.environ.get("DETECTOR_WORKER_ASSETS", ROOT.parent / "shared" / "assets"))
    missing = [name for name in (*TRAFFIC_FILES, *PLATES_FILES) if not (assets / name).is_file()]
    if missing:
        sys.stderr.write(
            f"The real models are absent: no {missing[0]} in {assets}. "
            "Set DETECTOR_WORKER_ASSETS to the folder that holds them.\n"
        )
        return 2
    plates_output = arguments.plates_output or arguments.output.with_name("real-plates.mpta")
    sizes = {
        str(arguments.output): _pack(arguments.output, pipeline(), TRAFFIC_FILES, assets),
        str(plates_output): _pack(plates_output, plates_pipeline(), PLATES_FILES, assets),
    }
    if arguments.json:
        told = {"archive": str(arguments.output), "bytes": sizes[str(arguments.output)], "archives": sizes}
        print(json.dumps(told))  # noqa: T201 - the script's answer
    else:
        print("\n".join(f"{archive}: {size} bytes" for archive, size in sizes.items()))  # noqa: T201 - as above
    return 0


def _pack(output: Path, contents: dict[str, Any], files: tuple[Path, ...], assets: Path) -> int:
    output.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pipeline.json", json.dumps(contents, indent=1))
        for name in files:
            archive.write(assets / name, name.name)
    return output.stat().st_size


def pipeline() -> dict[str, Any]:
    """Return the ``pipeline.json`` of ``real-traffic.mpta``."""
    detector = {
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
    }
    return _pipeline(detector, TABLE, ("best", "frame"), _attributes())


def plates_pipeline() -> dict[str, Any]:
    """Return the ``pipeline.json`` of ``real-plates.mpta``; its detector looks at the whole frame, stretched."""
    detector = {
        "modelId": "vehicle_plate_barrier",
        "modelFile": PLATE_DETECTOR.name,
        "modelType": "detection",
        "outputLayout": "ssd",
        "classes": [None, "vehicle", "plate"],
        "input": {"color": "bgr", "scale": 1.0, "letterbox": "none"},
        "minConfidence": 0.5,
        "targetFps": 5,
        "triggerClasses": ["vehicle"],
        "expectedClasses": ["vehicle", "plate"],
        "requiredClasses": ["vehicle"],
    }
    reader = {
        "modelId": "plate_text",
        "modelFile": PLATE_READER.name,
        "modelType": "ocr",
        "outputLayout": "textIndex",
        "alphabet": PLATE_SYMBOLS,
        "input": {"color": "bgr", "scale": 1.0},
        "resultField": "plate",
        "parallel": True,
        "crop": True,
        "cropClass": "plate",
        "required": False,
        "timeout_seconds": 10,
        "voting": {"frames": 3, "method": "confidence_weighted"},
    }
    attributes = [branch | {"cropClass": "vehicle"} for branch in _attributes()]
    return _pipeline(detector, PLATE_TABLE, ("best", "frame", "plate"), [*attributes, reader])


def _pipeline(
    detector: dict[str, Any], table: str, regions: tuple[str, ...], branches: list[dict[str, Any]]
) -> dict[str, Any]:
    """Add what both archives do: a record, its pictures, a message, and what the branches found."""
    columns = dict[str, str]()
    for branch in branches:
        field = branch["resultField"]
        columns[field] = f"{{{branch['modelId']}.{field}}}"
        columns[f"{field}_confidence"] = f"{{{branch['modelId']}.confidence}}"
    found = {column: "double precision" if column.endswith("confidence") else "text" for column in columns}
    return {
        "schemaVersion": 1,
        "pipeline": detector
        | {
            "actions": [_create(table), *_images(regions), _publication()],
            "branches": branches,
            "parallelActions": [_update(table, [branch["modelId"] for branch in branches], columns)],
            "tables": {
                table: {
                    "record_id": "uuid primary key",
                    "session_id": "text",
                    "display_id": "text",
                    "camera_id": "text",
                    "captured_timestamp": "timestamptz",
                    "vehicle_class": "text",
                    "confidence": "double precision",
                }
                | found
            },
        },
    }


def _create(table: str) -> dict[str, Any]:
    return {
        "type": "postgresql_create_record",
        "table": table,
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


def _images(regions: tuple[str, ...]) -> list[dict[str, Any]]:
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
        for region in regions
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


def _attributes() -> list[dict[str, Any]]:
    """The two outputs of the attributes model, which wants plain BGR 0..255, a branch each."""
    return [
        {
            "modelId": f"vehicle_{output}",
            "modelFile": ATTRIBUTES.name,
            "modelType": "classification",
            "output": output,
            "classes": classes,
            "input": {"color": "bgr", "scale": 1.0},
            "resultField": field,
            "minConfidence": 0.4,
            "parallel": True,
            "crop": True,
            "timeout_seconds": 10,
            "voting": {"frames": 3, "method": "confidence_weighted"},
        }
        for output, field, classes in (("color", "color", COLORS), ("type", "body_type", TYPES))
    ]


def _update(table: str, branches: list[str], columns: Mapping[str, str]) -> dict[str, Any]:
    return {
        "type": "postgresql_update_combined",
        "table": table,
        "key_field": "record_id",
        "key_value": "{record_id}",
        "waitForBranches": branches,
        "fields": dict(columns),
    }


if __name__ == "__main__":
    raise SystemExit(main())
