"""A first ``pipeline.json`` for some models: a record and a picture of each visit, and a branch for each classifier.

What a model does not say of itself is assumed, written down where it can be changed, and told: a wrong guess of its
pixels breaks nothing, it only makes nonsense of every answer.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase, digits
from typing import Any, Final, Literal

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.model_reading import ModelReading, read_model
from detector_worker.models.output_shapes import ModelNotes
from detector_worker.models.pipeline_config import BranchConfig, ModelSettings
from detector_worker.models.runtimes.runtime import InferenceRuntime, ModelSpec, Preprocessing

__all__ = ["ModelFile", "draft_pipeline", "model_parts", "sample_parts"]

ModelType = Literal["detection", "classification", "ocr"]
Part = dict[str, Any]
"""The keys of one model."""

_ALPHABET: Final = [*digits, *ascii_uppercase]
_MANY: Final = 12
_PLATE: Final = re.compile(r"plate|licen[cs]e", re.IGNORECASE)
_PLACES: Final = {"center": "letterboxed in the middle", "topLeft": "letterboxed at the top left", "none": "stretched"}
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


def model_parts(files: Sequence[ModelFile], runtime: InferenceRuntime) -> tuple[list[Part], list[str]]:
    """Read models as a worker would, and write down what they say; one of several outputs that fit is a part each.

    Returns:
        The parts, and a line for each thing in them that the model did not say. A text model whose shapes do not tell
        how many symbols it knows is left without ``alphabet``, and is refused until it has one.

    Raises:
        ModelLoadError: One cannot be read, or in no known way.
    """
    parts, guesses, names = list[Part](), list[str](), dict[str, int]()
    for file in files:
        spec = runtime.read_spec(file.path, input_hw=_HW[file.model_type])
        for read, reading in _readable(file, spec):
            part, guessed = _described(read, reading, spec)
            if file.model_type == "ocr":
                guessed += _crop_plate(part, parts[0] if parts else {})
            count = names[part["modelId"]] = names.get(part["modelId"], 0) + 1
            part["modelId"] += f"_{count}" if count > 1 else ""
            parts.append(part)
            guesses += (f"{part['modelId']}: {guess}" for guess in guessed)
    return parts, guesses


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
    for size in (*sizes, len(_ALPHABET) + 1):
        # Made-up symbols show in every result; digits and letters would look like an answer.
        named = _ALPHABET if size == len(_ALPHABET) + 1 else [f"<{number}>" for number in range(size - 1)]
        for blank in ("_", ""):
            yield part | {"alphabet": [*named, blank]}


def _described(read: Part, reading: ModelReading, spec: ModelSpec) -> tuple[Part, list[str]]:
    """Return a model's keys with all that was assumed of it, and what of them it did not say."""
    part, guessed = read | {"outputLayout": reading.layout, "input": _input(reading, spec)}, list[str]()
    if spec.metadata.get("author") != "Ultralytics":  # whose exports all want the same pixels
        guessed.append(_pixels(reading, spec))
    if part["modelType"] != "ocr":
        return part, guessed + _name_classes(part, reading, spec)
    if reading.layout == "textIndex":
        del part["alphabet"]
        missing = "alphabet is MISSING (validate refuses it so): give the model's symbols in the order of its ids"
        return part, [*guessed, missing]
    symbols = "0-9 A-Z" if part["alphabet"][:-1] == _ALPHABET else "made-up symbols <0>, <1>, ..."
    blank = "'_' for no symbol" if reading.layout == "textSlots" else "'' for the blank, which many models have first"
    other = "; textSlots, where it may be textCtc (outputLayout)" if reading.layout == "textSlots" else ""
    return part, [*guessed, f"{len(part['alphabet'])} symbols (alphabet): {symbols}, at the end {blank}{other}"]


def _input(reading: ModelReading, spec: ModelSpec) -> Part:
    pixels, usual = reading.preprocessing, Preprocessing()
    found: Part = {"color": pixels.color} | ({} if spec.takes_bytes else {"scale": pixels.scale})
    found |= {key: list(getattr(pixels, key)) for key in ("mean", "std") if getattr(pixels, key) != getattr(usual, key)}
    return found | {"letterbox": reading.letterbox}


def _pixels(reading: ModelReading, spec: ModelSpec) -> str:
    pixels, usual = reading.preprocessing, Preprocessing()
    span = "as bytes" if spec.takes_bytes else f"0..{255 * pixels.scale:g}"
    spread = "" if (pixels.mean, pixels.std) == (usual.mean, usual.std) else " less mean, by std"
    return f"pixels (input): {pixels.color.upper()} {span}{spread}, {_PLACES[reading.letterbox]}"


def _name_classes(part: Part, reading: ModelReading, spec: ModelSpec) -> list[str]:
    """Write down a model's classes, unless even their number would be made up."""
    noted, count = ModelNotes.of(spec.metadata).names, len(reading.class_names)
    named_once = read_model(_settings(part | {"classes": ["any"]}), spec).class_names
    if not noted and len(named_once) != count:
        return ["classes: the model does not say how many it has; name them in the order of its ids"]
    part["classes"] = list(reading.class_names)
    unnamed = sum(class_id not in noted for class_id in range(count))
    return [f"names of {unnamed} of {count} classes (classes): class_0, class_1, ..."] if unnamed else []


def _crop_plate(part: Part, detector: Part) -> list[str]:
    """Let a text reader see the plates that the detector finds, if it finds any."""
    plates = [name for name in detector.get("classes", ()) if name and _PLATE.search(name)]
    if not plates:
        return ["sees the whole object (cropClass): the detector has no class that is called a plate"]
    part["cropClass"] = plates[0]
    return []


def _settings(part: Part) -> ModelSettings:
    return (ModelSettings if part["modelType"] == "detection" else BranchConfig).model_validate(part)


def _identifier(text: str) -> str:
    """Make a name that templates and tables can use."""
    plain = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_").lower()[:40]
    return plain if plain and not plain[0].isdigit() else f"m_{plain}".rstrip("_")
