"""How a model is to be read: its output layout, what its input wants, the names of its classes.

Found from the shapes when the model is loaded, so that a model that nobody can read is an error then and never at the
first frame. The decoding itself is in `detection.output_layouts`.
"""

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.pipeline_config import ModelSettings
from detector_worker.models.runtimes.runtime import Hw, ModelSpec, Preprocessing

__all__ = ["LayoutName", "LetterboxMode", "ModelReading", "anchor_count", "read_model"]

LayoutName = Literal["yolov8", "yolox", "classification", "textSlots"]
LetterboxMode = Literal["center", "topLeft", "none"]
Shape = tuple[int, ...]
Fit = tuple[LayoutName, str, int]
"""A layout, the output that has it, and how many classes or symbols that output tells apart."""

_PAD_VALUE: Final = 114
_LONG_SIDE_PX: Final = 640
_MAX_NAMES_CHARS: Final = 100_000


@dataclass(frozen=True, slots=True)
class ModelReading:
    """Everything about a model that is neither its weights nor its compiled form."""

    layout: LayoutName
    output: str
    """Name of the output that is decoded."""
    preprocessing: Preprocessing
    letterbox: LetterboxMode
    pad_value: int
    class_names: tuple[str | None, ...]
    """By the model's class id; None for an id that the archive does not use. Of a text model: its alphabet."""
    long_side_px: int
    """Of the input for which a model of open size was trained."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """One kind of output: what it looks like, and what its models want unless the archive says otherwise."""

    model_type: str
    shape_text: str
    class_count: Callable[[Shape, Hw], int]
    """Of an output shape at an input size; below 1: the output is not of this kind."""
    color: Literal["rgb", "bgr"]
    scale: float
    letterbox: LetterboxMode


def anchor_count(input_hw: Hw) -> int:
    """How many places the strides 8, 16 and 32 make of an input size."""
    return sum((input_hw[0] // stride) * (input_hw[1] // stride) for stride in (8, 16, 32))


def _yolov8_classes(shape: Shape, input_hw: Hw) -> int:
    if len(shape) != 3 or shape[0] != 1:
        return 0
    places = anchor_count(input_hw)
    # Other strides than 8, 16, 32 are fine, where it is clear which axis holds the places.
    return shape[1] - 4 if shape[2] == places or shape[2] > shape[1] != places else 0


def _yolox_classes(shape: Shape, input_hw: Hw) -> int:
    return shape[2] - 5 if len(shape) == 3 and shape[:2] == (1, anchor_count(input_hw)) else 0


def _classifier_classes(shape: Shape, _input_hw: Hw) -> int:
    counts = [size for size in shape[1:] if size != 1]
    return counts[0] if len(counts) == 1 and shape[0] == 1 else 0


def _text_symbols(shape: Shape, _input_hw: Hw) -> int:
    return shape[2] if len(shape) == 3 and shape[0] == 1 and shape[1] > 0 else 0


_LAYOUTS: Final[dict[LayoutName, _Layout]] = {
    "yolov8": _Layout("detection", "[1, 4 + classes, places]", _yolov8_classes, "rgb", 1 / 255, "center"),
    "yolox": _Layout(
        "detection", "[1, places of strides 8, 16, 32, 5 + classes]", _yolox_classes, "bgr", 1.0, "topLeft"
    ),
    "classification": _Layout("classification", "[1, classes]", _classifier_classes, "rgb", 1 / 255, "none"),
    "textSlots": _Layout("ocr", "[1, slots, symbols of the alphabet]", _text_symbols, "rgb", 1 / 255, "none"),
}


def read_model(settings: ModelSettings, spec: ModelSpec) -> ModelReading:
    """Decide how a model is read; what the archive says wins over what the shapes suggest.

    Raises:
        ModelLoadError: No known layout fits, several outputs fit and none is named, or the archive's ``classes``,
            ``alphabet``, ``output`` or ``input`` contradict the model.
    """
    layout, output, class_count = _find_output(settings, spec)
    known, wanted = _LAYOUTS[layout], settings.input
    preprocessing = Preprocessing(
        color=wanted.color or known.color,
        scale=wanted.scale or (1.0 if spec.takes_bytes else known.scale),
        mean=wanted.mean or (0.0, 0.0, 0.0),
        std=wanted.std or (1.0, 1.0, 1.0),
    )
    if spec.takes_bytes and not preprocessing.is_identity:
        mend = "Remove scale, mean and std from the archive's input."
        raise _refusal(settings, "takes bytes and scales them by itself", mend)
    return ModelReading(
        layout,
        output,
        preprocessing,
        wanted.letterbox or known.letterbox,
        _PAD_VALUE if wanted.pad_value is None else wanted.pad_value,
        _class_names(settings, spec, class_count),
        _long_side(spec),
    )


def _find_output(settings: ModelSettings, spec: ModelSpec) -> Fit:
    if settings.output is not None and settings.output not in spec.outputs:
        raise _refusal(settings, f"has no output {settings.output!r}", f"It has: {', '.join(spec.outputs)}.")
    found: list[Fit] = [
        (name, output, count)
        for name, layout in _LAYOUTS.items()
        for output, shape in spec.outputs.items()
        if layout.model_type == settings.model_type
        and settings.output_layout in {None, name}
        and settings.output in {None, output}
        and (count := layout.class_count(shape, spec.input_hw)) > 0
    ]
    if not found:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in spec.outputs.items())
        known = "; ".join(f"{name} {layout.shape_text}" for name, layout in _LAYOUTS.items())
        what = f"cannot be read as {settings.output_layout or settings.model_type}; its outputs are {shapes}"
        raise _refusal(settings, what, f"Known are: {known}. Export it so, or set outputLayout.")
    if settings.model_type == "ocr":
        found = _fitting_alphabet(settings, found)
    if len(found) > 1:
        fitting = ", ".join(output for _, output, _ in found)
        raise _refusal(settings, f"has several outputs that fit: {fitting}", "Name the wanted one as output.")
    return found[0]


def _fitting_alphabet(settings: ModelSettings, found: list[Fit]) -> list[Fit]:
    """Keep the outputs that have as many symbols as the archive's alphabet; a text model without one says nothing."""
    mend = "Give as alphabet the list of its symbols in the order of the model's ids, '_' for the padding."
    if not settings.alphabet:
        raise _refusal(settings, "reads text, but the archive has no alphabet", mend)
    fitting = [one for one in found if one[2] == len(settings.alphabet)]
    if not fitting:
        counts = " or ".join(str(count) for _, _, count in found)
        raise _refusal(settings, f"has {counts} symbols, the archive's alphabet {len(settings.alphabet)}", mend)
    return fitting


def _class_names(settings: ModelSettings, spec: ModelSpec, count: int) -> tuple[str | None, ...]:
    """Return ``count`` names, of the archive, else of the model, else numbered."""
    given = settings.alphabet if settings.model_type == "ocr" else settings.classes
    if given is None:
        named = _noted_names(spec.metadata.get("names", ""))
        return tuple(named.get(class_id, f"class_{class_id}") for class_id in range(count))
    if len(given) > count:
        mend = "Give classes in the order of the model's class ids, null for those that are not used."
        raise _refusal(settings, f"has {count} classes, the archive names {len(given)}", mend)
    return (*given, *[None] * (count - len(given)))


def _noted_names(text: str) -> dict[object, str]:
    """Read the ``names`` of an Ultralytics export, a Python dictionary; empty where it is none."""
    try:
        names = ast.literal_eval(text[:_MAX_NAMES_CHARS])
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return {}
    pairs = names.items() if isinstance(names, dict) else ()
    return {key: name[:200] for key, name in pairs if isinstance(name, str) and name}


def _long_side(spec: ModelSpec) -> int:
    """The long side that the exporter noted (``imgsz``, such as ``[640, 640]``), else 640 pixels."""
    noted = [int(side) for side in re.findall(r"\b\d{2,4}\b", spec.metadata.get("imgsz", ""), re.ASCII)]
    return max(noted, default=_LONG_SIDE_PX)


def _refusal(settings: ModelSettings, what: str, mend: str) -> ModelLoadError:
    return ModelLoadError(f"The model {what}", where=f"model {settings.model_id}", mend=mend)
