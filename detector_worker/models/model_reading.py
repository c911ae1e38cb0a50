"""How a model is to be read: its output layout, what its input wants, the names of its classes.

Found from the shapes at the model's own input size when it is loaded, so that a model that nobody can read is an
error then and never at the first frame. The decoding itself is in `detection.output_layouts`.
"""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.pipeline_config import ModelSettings
from detector_worker.models.runtime import Hw, ModelSpec, Preprocessing

__all__ = ["LayoutName", "LetterboxMode", "ModelReading", "anchor_count", "read_model"]

LayoutName = Literal["yolov8", "yolox", "classification"]
LetterboxMode = Literal["center", "topLeft", "none"]
Shape = tuple[int, ...]

STRIDES: Final = (8, 16, 32)
_PAD_VALUE: Final = 114
_MAX_NAMES_CHARS: Final = 100_000


@dataclass(frozen=True, slots=True)
class ModelReading:
    """Everything about a model that is neither its weights nor its compiled form.

    Attributes:
        layout: How its output is decoded.
        output: Name of the output that is decoded.
        preprocessing: What the compiled graph does with a pixel.
        letterbox: How a picture of another shape is fitted into the input.
        pad_value: Grey of the padding, 0 to 255.
        class_names: Name by the model's class id; None for an id that the archive does not use.
    """

    layout: LayoutName
    output: str
    preprocessing: Preprocessing
    letterbox: LetterboxMode
    pad_value: int
    class_names: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class _Layout:
    """One kind of output: what it looks like, and what its models want unless the archive says otherwise."""

    shape_text: str
    class_count: Callable[[Shape, Hw], int | None]
    """Of an output shape at an input size; None: the output is not of this kind."""
    color: Literal["rgb", "bgr"]
    scale: float
    letterbox: LetterboxMode


def anchor_count(input_hw: Hw) -> int:
    """How many places the strides 8, 16 and 32 make of an input size."""
    return sum((input_hw[0] // stride) * (input_hw[1] // stride) for stride in STRIDES)


def _yolov8_classes(shape: Shape, input_hw: Hw) -> int | None:
    if len(shape) != 3 or shape[0] != 1 or shape[1] < 5:
        return None
    places = anchor_count(input_hw)
    # Other strides than 8, 16, 32 are fine, where it is clear which axis holds the places.
    return shape[1] - 4 if shape[2] == places or shape[2] > shape[1] != places else None


def _yolox_classes(shape: Shape, input_hw: Hw) -> int | None:
    fits = len(shape) == 3 and shape[0] == 1 and shape[1] == anchor_count(input_hw) and shape[2] > 5
    return shape[2] - 5 if fits else None


def _classifier_classes(shape: Shape, _input_hw: Hw) -> int | None:
    counts = [size for size in shape if size != 1]
    return counts[0] if len(counts) == 1 and len(shape) >= 2 and shape[0] == 1 and counts[0] > 1 else None


_LAYOUTS: Final[Mapping[LayoutName, _Layout]] = {
    "yolov8": _Layout("[1, 4 + classes, places]", _yolov8_classes, "rgb", 1 / 255, "center"),
    "yolox": _Layout("[1, places of strides 8, 16, 32, 5 + classes]", _yolox_classes, "bgr", 1.0, "topLeft"),
    "classification": _Layout("[1, classes]", _classifier_classes, "rgb", 1 / 255, "none"),
}
_BY_TYPE: Final[Mapping[str, tuple[LayoutName, ...]]] = {
    "detection": ("yolov8", "yolox"),
    "classification": ("classification",),
}


def read_model(settings: ModelSettings, spec: ModelSpec) -> ModelReading:
    """Decide how a model is read; what the archive says wins over what the shapes suggest.

    Raises:
        ModelLoadError: No known layout fits, several outputs fit and none is named, or the archive's ``classes``,
            ``output`` or ``input`` contradict the model.
    """
    where = f"model {settings.model_id}"
    layout, output, class_count = _find_output(settings, spec, where)
    known, wanted = _LAYOUTS[layout], settings.input
    preprocessing = Preprocessing(
        color=wanted.color or known.color,
        scale=wanted.scale if wanted.scale is not None else 1.0 if spec.takes_bytes else known.scale,
        mean=wanted.mean or (0.0, 0.0, 0.0),
        std=wanted.std or (1.0, 1.0, 1.0),
    )
    if spec.takes_bytes and not preprocessing.is_identity:
        raise ModelLoadError(
            "The model takes bytes and scales them by itself",
            where=where,
            mend="Remove scale, mean and std from the archive's input.",
        )
    return ModelReading(
        layout,
        output,
        preprocessing,
        wanted.letterbox or known.letterbox,
        _PAD_VALUE if wanted.pad_value is None else wanted.pad_value,
        _class_names(settings, spec, class_count, where),
    )


def _find_output(settings: ModelSettings, spec: ModelSpec, where: str) -> tuple[LayoutName, str, int]:
    """Return layout, output and number of classes."""
    if settings.output is not None and settings.output not in spec.outputs:
        raise ModelLoadError(
            f"The model has no output {settings.output!r}", where=where, mend=f"It has: {', '.join(spec.outputs)}."
        )
    names = spec.outputs if settings.output is None else (settings.output,)
    layouts = [
        name
        for name in _BY_TYPE.get(settings.model_type, ())
        if settings.output_layout is None or name == settings.output_layout
    ]
    found = [
        (layout, name, count)
        for layout in layouts
        for name in names
        if (count := _LAYOUTS[layout].class_count(spec.outputs[name], spec.input_hw)) is not None
    ]
    if not found:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in spec.outputs.items())
        known = "; ".join(f"{name} {layout.shape_text}" for name, layout in _LAYOUTS.items())
        asked = f" as {settings.output_layout}" if settings.output_layout else ""
        raise ModelLoadError(
            f"The outputs of this {settings.model_type} model cannot be read{asked}: {shapes}",
            where=where,
            mend=f"Known are: {known}. Export it so, or set outputLayout.",
        )
    if len(found) > 1:
        raise ModelLoadError(
            f"The model has several outputs that fit: {', '.join(name for _, name, _ in found)}",
            where=where,
            mend="Name the wanted one as output.",
        )
    return found[0]


def _class_names(settings: ModelSettings, spec: ModelSpec, count: int, where: str) -> tuple[str | None, ...]:
    """Return ``count`` names, of the archive, else of the model, else numbered."""
    if settings.classes is not None:
        if len(settings.classes) > count:
            raise ModelLoadError(
                f"The archive names {len(settings.classes)} classes, the model has {count}",
                where=where,
                mend="Give classes in the order of the model's class ids, null for those that are not used.",
            )
        return (*settings.classes, *[None] * (count - len(settings.classes)))
    named = _metadata_names(spec.metadata.get("names", ""))
    return tuple(named.get(class_id, f"class_{class_id}") for class_id in range(count))


def _metadata_names(text: str) -> dict[int, str]:
    """Read the ``names`` of an Ultralytics export, a Python dictionary or list; empty where it is neither."""
    if len(text) > _MAX_NAMES_CHARS:
        return {}
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}
    pairs = names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list) else ()
    return {key: name[:200] for key, name in pairs if isinstance(key, int) and isinstance(name, str) and name}
