"""A first ``pipeline.json`` for some models: a record and a picture of each visit, and a branch for each classifier."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase, digits
from typing import Any, Final, Literal

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.model_reading import ModelReading, read_model
from detector_worker.models.pipeline_config import BranchConfig, ModelSettings
from detector_worker.models.runtimes.runtime import InferenceRuntime, ModelSpec

__all__ = ["ModelFile", "draft_pipeline", "model_parts", "sample_parts"]

ModelType = Literal["detection", "classification", "ocr"]
Part = dict[str, Any]
"""The keys of one model."""

_ALPHABET: Final = [*digits, *ascii_uppercase]
_MANY: Final = 12
_HW: Final[dict[ModelType, tuple[int, int]]] = {"detection": (384, 640), "classification": (224, 224), "ocr": (64, 128)}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that somebody has, and what it is for."""

    path: Path
    model_type: ModelType


def sample_parts() -> list[Part]:
    """Return a detector and a classifier that are still to be found."""
    detector = {"modelId": "detector", "modelFile": "detector.onnx", "modelType": "detection", "classes": ["car"]}
    kind = {"modelId": "kind", "modelFile": "kind.onnx", "modelType": "classification", "classes": ["sedan", "van"]}
    return [detector, kind]


def model_parts(files: Sequence[ModelFile], runtime: InferenceRuntime) -> list[Part]:
    """Read models as a worker would, and write down what they say; one of several outputs that fit is a part each.

    Raises:
        ModelLoadError: One cannot be read, or in no known way.
    """
    parts = list[Part]()
    for file in files:
        spec = runtime.read_spec(file.path, input_hw=_HW[file.model_type])
        parts += [_described(part, spec) for part in _readable(file, spec)]
    names: dict[str, int] = {}
    for part in parts:
        count = names[part["modelId"]] = names.get(part["modelId"], 0) + 1
        part["modelId"] += f"_{count}" if count > 1 else ""
    return parts


def draft_pipeline(name: str, parts: Sequence[Part]) -> dict[str, Any]:
    """Return the document; the first part is the detector."""
    detector, *others = parts
    table, classes = f"{_identifier(name)}_visits", [one for one in detector.get("classes", ()) if one]
    columns = {"record_id": "uuid primary key", "session_id": "text", "display_id": "text", "camera_id": "text"}
    columns |= {"captured_timestamp": "timestamptz", "class_name": "text", "confidence": "double precision"}
    sources = {column: f"{{{column}}}" for column in columns} | {"captured_timestamp": "{timestamp}"}
    create: Part = {"type": "postgresql_create_record", "table": table, "fields": sources}
    image = {"type": "redis_save_image", "region": "best", "key": f"{name}:{{display_id}}:{{record_id}}:{{filename}}"}
    pipeline = dict(detector) | {"targetFps": 5}
    if 0 < len(classes) <= _MANY:
        pipeline["expectedClasses"] = classes
    pipeline["actions"] = [create, image]
    if others:
        pipeline["branches"] = [_branch(part) for part in others]
        results = {branch["modelId"]: branch["resultField"] for branch in pipeline["branches"]}
        update: Part = {"type": "postgresql_update_combined", "table": table, "key_field": "record_id"}
        update |= {"key_value": "{record_id}", "waitForBranches": list(results)}
        found = {one: f"{{{one}.{field}}}" for one, field in results.items()}
        found |= {f"{one}_confidence": f"{{{one}.confidence}}" for one in results}
        pipeline["parallelActions"] = [update | {"fields": found}]
        columns |= {column: "double precision" if column.endswith("_confidence") else "text" for column in found}
    pipeline["tables"] = {table: columns}
    return {"$schema": "./pipeline.schema.json", "schemaVersion": 1, "pipeline": pipeline}


def _branch(part: Part) -> Part:
    field = "text" if part["modelType"] == "ocr" else "class"
    return part | {"resultField": field, "crop": True, "parallel": True, "voting": {"frames": 3}}


def _readable(file: ModelFile, spec: ModelSpec) -> list[tuple[Part, ModelReading]]:
    """Return the ways in which a model can be read: as it is, else each of its outputs for itself."""
    plain = {"modelId": _identifier(file.path.stem), "modelFile": file.path.name, "modelType": file.model_type}
    ways = [plain, *(plain | {"output": name} for name in spec.outputs)]
    first: ModelLoadError | None = None
    found = list[tuple[Part, ModelReading]]()
    for way in ways:
        for part in _with_alphabets(way, spec):
            try:
                found.append((part, read_model(_settings(part), spec)))
                break
            except ModelLoadError as exc:
                first = first or exc
        if found and way is plain:
            break
    if not found:
        assert first is not None, "it was tried at least once"
        raise first
    if len(found) > 1:
        for part, _ in found:
            part["modelId"] = f"{part['modelId']}_{_identifier(part['output'])}"
    return found


def _with_alphabets(part: Part, spec: ModelSpec) -> Iterator[Part]:
    """Yield a text model with alphabets of the sizes that its outputs suggest; which symbols, nothing tells."""
    if part["modelType"] != "ocr":
        yield part
        return
    sizes = {shape[-1]: None for shape in spec.outputs.values() if 1 < shape[-1] <= 20_000}
    for size in (*sizes, len(_ALPHABET)):
        named = [*_ALPHABET, *(f"<{number}>" for number in range(len(_ALPHABET), size))][: size - 1]
        for blank in ("_", ""):
            yield part | {"alphabet": [*named, blank]}


def _described(read: tuple[Part, ModelReading], spec: ModelSpec) -> Part:
    part, reading = read
    described = part | {"outputLayout": reading.layout}
    if part["modelType"] != "ocr":
        described["classes"] = list(reading.class_names)
    return described


def _settings(part: Part) -> ModelSettings:
    return (ModelSettings if part["modelType"] == "detection" else BranchConfig).model_validate(part)


def _identifier(text: str) -> str:
    """Make a name that templates and tables can use."""
    plain = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower()[:40]
    return plain if plain and not plain[0].isdigit() else f"m_{plain}".rstrip("_")
