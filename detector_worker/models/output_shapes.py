"""What the outputs of models look like: one function a layout, which tells where it fits and how surely.

The same shape may belong to several layouts. Each reading of a model's outputs is a `Fit` with a rank, and
`model_reading` takes the surest; sizes of -1 are not known before a picture was seen.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from detector_worker.models.pipeline_json.document import printable
from detector_worker.models.pipeline_values import OutputLayout
from detector_worker.models.runtimes.runtime import Hw, ModelSpec

__all__ = ["FITS", "Fit", "ModelNotes", "Rank", "place_count"]

Shape = tuple[int, ...]
Rank = Literal[0, 1, 2, 3]
"""0: only where the archive names the layout; 1: if nothing is surer; 2: by its shape; 3: the exporter says so."""

_STRIDES: Final = (8, 16, 32)
_MAX_QUERIES: Final = 1000
"""More objects than any model finds at once; those that answer in places have more, but on the smallest inputs."""
_DETR_QUERIES: Final = 300
_MAX_NAMES_CHARS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Fit:
    """One way to read a model's outputs."""

    layout: OutputLayout
    outputs: tuple[str, ...]
    """In the order in which the layout wants them."""
    count: int
    """How many classes or symbols they tell apart; 0: the shapes do not say."""
    rank: Rank


@dataclass(frozen=True, slots=True)
class ModelNotes:
    """What the exporter noted beside the graph, as Ultralytics' does."""

    names: Mapping[int, str] = field(default_factory=dict)
    """Of the classes, by id."""
    is_end2end: bool = False
    is_detr: bool = False
    task: str = ""
    long_side_px: int | None = None

    @property
    def class_count(self) -> int:
        """How many classes the names are for; 0: none are noted."""
        return max(self.names, default=-1) + 1

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "ModelNotes":
        """Read a model's metadata; what is malformed is passed over, since it may be anybody's."""
        sides = [int(side) for side in re.findall(r"\b\d{2,4}\b", metadata.get("imgsz", ""), re.ASCII)]
        return cls(
            names=_noted_names(metadata.get("names", "")),
            is_end2end=metadata.get("end2end", "").casefold() == "true",
            is_detr="rtdetr" in metadata.get("description", "").casefold().replace("-", ""),
            task=metadata.get("task", ""),
            long_side_px=max(sides, default=None),
        )


def place_count(input_hw: Hw) -> int:
    """How many places the strides 8, 16 and 32 make of an input size."""
    return sum((input_hw[0] // stride) * (input_hw[1] // stride) for stride in _STRIDES)


def _single(spec: ModelSpec, axes: int) -> Iterator[tuple[str, Shape]]:
    """Yield the outputs of so many axes and batch 1, or of one that is left open."""
    return ((name, shape) for name, shape in spec.outputs.items() if len(shape) == axes and shape[0] in {1, -1})


def _without_masks(count: int, spec: ModelSpec, notes: ModelNotes) -> int:
    """Take off what models of other tasks append to the classes: coefficients of masks, or points of a body."""
    surplus = count - notes.class_count
    masks = {shape[1] for _, shape in _single(spec, 4)}
    is_told = notes.class_count > 0 and surplus > 0 and (notes.task in {"segment", "pose"} or surplus in masks)
    return notes.class_count if is_told else count


def _fit_yolov5(spec: ModelSpec, notes: ModelNotes) -> Iterator[Fit]:
    anchors = 3 * place_count(spec.input_hw)
    for name, (_, places, width) in _single(spec, 3):
        count = _without_masks(width - 5, spec, notes)
        is_noted = 0 < count == notes.class_count and places > width
        if width > 5 and (places > width or places in {anchors, anchors // 3, -1}):
            yield Fit("yolov5", (name,), count, 2 if places == anchors else 1 if is_noted else 0)


def _fit_yolov8(spec: ModelSpec, notes: ModelNotes) -> Iterator[Fit]:
    places = place_count(spec.input_hw)
    for name, (_, height, width) in _single(spec, 3):
        # Other strides than 8, 16, 32 are fine, where it is clear which axis holds the places.
        if height > 4 and (width > height or width in {places, -1}):
            count = _without_masks(height - 4, spec, notes)
            yield Fit("yolov8", (name,), count, 2 if width == places else 1)


def _fit_yolox(spec: ModelSpec, _notes: ModelNotes) -> Iterator[Fit]:
    for name, (_, places, width) in _single(spec, 3):
        if width > 5 and places == place_count(spec.input_hw):
            yield Fit("yolox", (name,), width - 5, 2)


def _fit_end2end(spec: ModelSpec, notes: ModelNotes) -> Iterator[Fit]:
    places = place_count(spec.input_hw)
    for name, (_, rows, width) in _single(spec, 3):
        if width == 6 or (width > 6 and notes.is_end2end):
            # Where the number of places allows it, six columns are as well one class of YOLOX or YOLOv5.
            likely: Rank = 1 if rows in {places, 3 * places} else 2 if rows <= _MAX_QUERIES else 0
            yield Fit("end2end", (name,), 0, 3 if notes.is_end2end else likely)


def _fit_ssd(spec: ModelSpec, _notes: ModelNotes) -> Iterator[Fit]:
    for name, shape in _single(spec, 4):
        if shape[1] == 1 and shape[3] == 7:
            yield Fit("ssd", (name,), 0, 2)
    for boxes, classes, count in _pairs(spec):
        if not _says(classes, "logit", "label"):
            yield Fit("ssd", (boxes, classes), count, 2 if _says(classes, "score", "conf", "prob") else 1)


def _fit_detr(spec: ModelSpec, notes: ModelNotes) -> Iterator[Fit]:
    for boxes, classes, count in _pairs(spec):
        if not _says(classes, "score", "conf", "prob"):
            yield Fit("detr", (boxes, classes), count, 3 if _says(classes, "logit", "label") else 1)
    places = place_count(spec.input_hw)
    for name, (_, queries, width) in _single(spec, 3):
        if width > 4 and queries <= _MAX_QUERIES and (width != places or queries == _DETR_QUERIES):
            # Six columns are the answer of an end-to-end YOLO far more often than that of a DETR of two classes.
            by_shape: Rank = 2 if queries == _DETR_QUERIES and width != 6 else 0
            # Newer exports have chosen each box's class already: then the names alone tell how many classes there are.
            is_chosen = width == 6 and notes.is_detr and notes.class_count not in {0, 2}
            yield Fit("detr", (name,), 0 if is_chosen else width - 4, 3 if notes.is_detr else by_shape)


def _pairs(spec: ModelSpec) -> Iterator[tuple[str, str, int]]:
    """Yield boxes [1, N, 4] and classes [1, N, C] of the same N, and C; of two fours the names tell which is which."""
    for boxes, (_, queries, width) in _single(spec, 3):
        if width != 4:
            continue
        for classes, (_, rows, count) in _single(spec, 3):
            if classes != boxes and rows == queries and count > 0 and not _says(classes, "box", "dets"):
                yield boxes, classes, count


def _says(name: str, *words: str) -> bool:
    return any(word in name.casefold() for word in words)


def _fit_fastestdet(spec: ModelSpec, _notes: ModelNotes) -> Iterator[Fit]:
    for name, (_, depth, rows, columns) in _single(spec, 4):
        is_grid = rows > 1 and columns > 1 and (spec.input_hw[0] // rows, 0) == divmod(spec.input_hw[1], columns)
        if depth > 5 and is_grid and spec.input_hw[0] % rows == 0:
            yield Fit("fastestdet", (name,), depth - 5, 2 if len(spec.outputs) == 1 else 0)


def _fit_classification(spec: ModelSpec, _notes: ModelNotes) -> Iterator[Fit]:
    for name, shape in spec.outputs.items():
        counts = [size for size in shape[1:] if size != 1]
        if shape[:1] in {(1,), (-1,)} and len(counts) == 1 and counts[0] > 1:
            yield Fit("classification", (name,), counts[0], 2)


def _fit_text_index(spec: ModelSpec, _notes: ModelNotes) -> Iterator[Fit]:
    for name, shape in spec.outputs.items():
        if shape[:1] in {(1,), (-1,)} and len(shape) > 1 and shape[1] > 1 and set(shape[2:]) <= {1}:
            # Beside another output it might as well be that of a classifier.
            yield Fit("textIndex", (name,), 0, 2 if len(spec.outputs) == 1 else 0)


def _fit_text_slots(spec: ModelSpec, _notes: ModelNotes) -> Iterator[Fit]:
    for name, (_, slots, symbols) in _single(spec, 3):
        if slots > 0 and symbols > 1:
            yield Fit("textSlots", (name,), symbols, 2)


def _fit_text_ctc(spec: ModelSpec, _notes: ModelNotes) -> Iterator[Fit]:
    for name, shape in spec.outputs.items():
        if len(shape) == 3 and {shape[0], shape[1]} & {1, -1} and shape[2] > 1:
            yield Fit("textCtc", (name,), shape[2], 2)


FITS: Final[Mapping[OutputLayout, Callable[[ModelSpec, ModelNotes], Iterator[Fit]]]] = {
    "yolov5": _fit_yolov5,
    "yolov8": _fit_yolov8,
    "yolox": _fit_yolox,
    "end2end": _fit_end2end,
    "ssd": _fit_ssd,
    "detr": _fit_detr,
    "fastestdet": _fit_fastestdet,
    "classification": _fit_classification,
    "textIndex": _fit_text_index,
    "textSlots": _fit_text_slots,
    "textCtc": _fit_text_ctc,
}
"""By layout: every way to read a model's outputs so."""


def _noted_names(text: str) -> dict[int, str]:
    """Read the ``names`` of an export, a Python dictionary or list; empty where it is neither."""
    try:
        noted = ast.literal_eval(text[:_MAX_NAMES_CHARS])
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return {}
    pairs = noted.items() if isinstance(noted, dict) else enumerate(noted) if isinstance(noted, list) else ()
    # A model is from outside like its archive: nothing that a terminal or a log would obey.
    return {int(key): printable(name) for key, name in pairs if _is_class_id(key) and isinstance(name, str) and name}


def _is_class_id(key: object) -> bool:
    return re.fullmatch(r"\d{1,5}", str(key), re.ASCII) is not None
