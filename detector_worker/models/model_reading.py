"""How a model is to be read: its output layout, what its input wants, the names of its classes.

Decided from shapes, names and metadata when the model is loaded, so that a model that nobody can read, or that can be
read in several ways, is an error then and never at the first frame. The decoding itself is in `detection.layouts`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.output_shapes import FITS, Fit, ModelNotes
from detector_worker.models.pipeline_config import ModelSettings
from detector_worker.models.pipeline_values import NmsConfig, OutputLayout
from detector_worker.models.runtimes.runtime import ModelSpec, Preprocessing

__all__ = ["LetterboxMode", "ModelReading", "read_model"]

LetterboxMode = Literal["center", "topLeft", "none"]

_PAD_VALUE: Final = 114
_LONG_SIDE_PX: Final = 640
_NUMBERED_CLASSES: Final = 100
"""So many names are made up for a model that tells nowhere how many classes it has."""


@dataclass(frozen=True, slots=True)
class ModelReading:
    """Everything about a model that is neither its weights nor its compiled form."""

    layout: OutputLayout
    outputs: tuple[str, ...]
    """Names of the outputs that are decoded, in the order in which the layout wants them."""
    preprocessing: Preprocessing
    letterbox: LetterboxMode
    pad_value: int
    class_names: tuple[str | None, ...]
    """By the model's class id; None for an id that the archive does not use. Of a text model: its alphabet."""
    nms: NmsConfig | None
    """How doubles are suppressed; None where the model has done so itself."""
    long_side_px: int
    """Of the input for which a model of open size was trained."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """One kind of output: what it looks like, and what its models want unless the archive says otherwise."""

    model_type: str
    shape_text: str
    preprocessing: Preprocessing
    letterbox: LetterboxMode = "none"
    nms: NmsConfig | None = None


_BGR, _RGB = Preprocessing("bgr"), Preprocessing("rgb", 1 / 255)
_IMAGENET: Final = Preprocessing("rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LAYOUTS: Final[dict[OutputLayout, _Layout]] = {
    "yolov5": _Layout(
        "detection", "[1, 3 x places of strides 8, 16, 32, 5 + classes]", _RGB, "center", nms=NmsConfig()
    ),
    "yolov8": _Layout("detection", "[1, 4 + classes, places]", _RGB, "center", nms=NmsConfig()),
    "yolox": _Layout("detection", "[1, places of strides 8, 16, 32, 5 + classes]", _BGR, "topLeft", nms=NmsConfig()),
    "end2end": _Layout("detection", "[1, boxes, 6]", _RGB, "center"),
    "ssd": _Layout("detection", "[1, 1, boxes, 7], or boxes [1, N, 4] with scores [1, N, classes]", _BGR),
    "detr": _Layout(
        "detection", "boxes [1, N, 4] with logits or labels [1, N, classes], or [1, 300, 4 + classes]", _RGB
    ),
    "fastestdet": _Layout(
        "detection", "[1, 5 + classes, rows, columns]", Preprocessing("bgr", 1 / 255), nms=NmsConfig()
    ),
    "classification": _Layout("classification", "[1, classes]", _RGB),
    "textIndex": _Layout("ocr", "[1, indices ended by -1]", _BGR),
    "textSlots": _Layout("ocr", "[1, slots, symbols of the alphabet]", _RGB),
    "textCtc": _Layout("ocr", "[1, steps, symbols] or [steps, 1, symbols], '' in the alphabet for the blank", _RGB),
}


def read_model(settings: ModelSettings, spec: ModelSpec) -> ModelReading:
    """Decide how a model is read; what the archive says wins over what the shapes suggest.

    Raises:
        ModelLoadError: No known layout fits, several do and none is named, or the archive's ``classes``,
            ``alphabet``, ``output`` or ``input`` contradict the model.
    """
    notes = ModelNotes.of(spec.metadata)
    fit = _find_fit(settings, spec, notes)
    known, wanted = _LAYOUTS[fit.layout], settings.input
    # Of DETRs only RF-DETR, which names its boxes so, is trained on pixels brought to ImageNet's mean and spread.
    usual = _IMAGENET if fit.layout == "detr" and "dets" in fit.outputs[0].casefold() else known.preprocessing
    if spec.takes_bytes:
        usual = Preprocessing(usual.color)
    preprocessing = Preprocessing(
        color=wanted.color or usual.color,
        scale=wanted.scale or usual.scale,
        mean=wanted.mean or usual.mean,
        std=wanted.std or usual.std,
    )
    if spec.takes_bytes and not preprocessing.is_identity:
        mend = "Remove scale, mean and std from the archive's input."
        raise _refusal(settings, "takes bytes and scales them by itself", mend)
    return ModelReading(
        layout=fit.layout,
        outputs=fit.outputs,
        preprocessing=preprocessing,
        letterbox=wanted.letterbox or known.letterbox,
        pad_value=_PAD_VALUE if wanted.pad_value is None else wanted.pad_value,
        class_names=_class_names(settings, notes, fit),
        nms=_nms(settings, fit),
        long_side_px=notes.long_side_px or _LONG_SIDE_PX,
    )


def _find_fit(settings: ModelSettings, spec: ModelSpec, notes: ModelNotes) -> Fit:
    """Take the surest reading; where several are as sure as each other, the number of noted class names decides."""
    if settings.output is not None and settings.output not in spec.outputs:
        raise _refusal(settings, f"has no output {settings.output!r}", f"It has: {', '.join(spec.outputs)}.")
    if settings.model_type == "detection" and notes.task == "obb":
        raise _refusal(settings, "finds rotated boxes", "The worker reads upright ones: export a model for those.")
    found = [
        fit
        for layout, fits in FITS.items()
        if _LAYOUTS[layout].model_type == settings.model_type and settings.output_layout in {None, layout}
        for fit in fits(spec, notes)
        if settings.output is None or settings.output in fit.outputs
    ]
    if found and settings.model_type == "ocr":
        found = _fitting_alphabet(settings, found)
    pairs = [fit for fit in found if len(fit.outputs) > 1]  # no part of one is a layout of its own
    found = _surest(pairs or found, notes, is_named=settings.output_layout is not None)
    if not found:
        raise _unreadable(settings, spec)
    if len(found) > 1:
        raise _ambiguous(settings, found)
    is_told = settings.output_layout is not None or settings.model_type != "detection"
    if not is_told and notes.class_count not in {0, found[0].count} and found[0].count:
        what = f"looks like {_told(found[0])}, but notes {notes.class_count} class names"
        raise _refusal(settings, what, "Set outputLayout to the right one.")
    return found[0]


def _surest(found: list[Fit], notes: ModelNotes, *, is_named: bool) -> list[Fit]:
    best = max((fit.rank for fit in found), default=0)
    found = [fit for fit in found if fit.rank == best and (best or is_named)]
    noted = [fit for fit in found if fit.count == notes.class_count]
    return noted if noted and len(found) > 1 else found


def _fitting_alphabet(settings: ModelSettings, found: list[Fit]) -> list[Fit]:
    """Keep the readings with as many symbols as the archive's alphabet; what stands for nothing tells slots from CTC.

    A slot that holds no symbol has the padding ``_``; the blank of CTC is the empty symbol, or where it is named by
    ``outputLayout`` also ``_``.
    """
    mend = "Give as alphabet the list of its symbols in the order of the model's ids, '_' for padding, '' for a blank."
    alphabet = settings.alphabet
    if not alphabet:
        raise _refusal(settings, "reads text, but the archive has no alphabet", mend)
    fitting = [one for one in found if one.count in {0, len(alphabet)}]
    if not fitting:
        counts = " or ".join(dict.fromkeys(str(one.count) for one in found))
        raise _refusal(settings, f"has {counts} symbols, the archive's alphabet {len(alphabet)}", mend)
    if settings.output_layout == "textCtc" and 1 not in (alphabet.count(""), alphabet.count("_")):
        what = "reads text with a blank, but the archive's alphabet does not say where it stands"
        mend = "Put '' into the alphabet at the blank's place: in most models the first or the last."
        raise _refusal(settings, what, mend)
    if settings.output_layout is not None:
        return fitting
    has_blank = alphabet.count("") == 1 and "_" not in alphabet
    return [one for one in fitting if one.layout != ("textSlots" if has_blank else "textCtc")]


def _class_names(settings: ModelSettings, notes: ModelNotes, fit: Fit) -> tuple[str | None, ...]:
    """Return a name for each class, of the archive, else of the model, else numbered."""
    given = settings.alphabet if settings.model_type == "ocr" else settings.classes
    if given is None:
        count = fit.count or notes.class_count or _NUMBERED_CLASSES
        return tuple(notes.names.get(class_id, f"class_{class_id}") for class_id in range(count))
    if fit.count and len(given) > fit.count:
        mend = "Give classes in the order of the model's class ids, null for those that are not used."
        raise _refusal(settings, f"has {fit.count} classes, the archive names {len(given)}", mend)
    if not any(given) and settings.model_type != "ocr":
        raise _refusal(settings, "is wanted for nothing: its classes are all null", "Name at least one of its classes.")
    return (*given, *[None] * (fit.count - len(given)))


def _nms(settings: ModelSettings, fit: Fit) -> NmsConfig | None:
    """What the archive says itself always holds, also for a model that suppresses doubles already."""
    is_raw = _LAYOUTS[fit.layout].nms is not None or (fit.layout == "ssd" and len(fit.outputs) > 1)
    return settings.nms if is_raw or "nms" in settings.model_fields_set else None


def _unreadable(settings: ModelSettings, spec: ModelSpec) -> ModelLoadError:
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in spec.outputs.items())
    known = "; ".join(f"{name} {layout.shape_text}" for name, layout in _LAYOUTS.items())
    what = f"cannot be read as {settings.output_layout or settings.model_type}; its outputs are {shapes}"
    return _refusal(settings, what, f"Known are: {known}. Export it so, or set outputLayout.")


def _ambiguous(settings: ModelSettings, found: Iterable[Fit]) -> ModelLoadError:
    if len({fit.layout for fit in found}) == 1:
        fitting = ", ".join(" with ".join(fit.outputs) for fit in found)
        return _refusal(settings, f"has several outputs that fit: {fitting}", "Name the wanted one as output.")
    what = f"can be read in several ways: {', or '.join(map(_told, found))}"
    return _refusal(settings, what, "Set outputLayout to the right one.")


def _told(fit: Fit) -> str:
    return fit.layout if not fit.count else f"{fit.layout} with {fit.count} classes"


def _refusal(settings: ModelSettings, what: str, mend: str) -> ModelLoadError:
    return ModelLoadError(f"The model {what}", where=f"model {settings.model_id}", mend=mend)
