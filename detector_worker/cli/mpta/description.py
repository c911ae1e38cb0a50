"""What a loaded archive holds, as plain data: for the tree, for the picture and for ``--json``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from detector_worker.models.pipeline_config import (
    ActionConfig,
    BranchConfig,
    PipelineConfig,
    PostgresqlCreate,
    PostgresqlUpdate,
    PublishMessageAction,
    RedisSaveImage,
)
from detector_worker.models.pipeline_loader import LoadedPipeline
from detector_worker.models.shared_model import LoadedModel

__all__ = ["ActionView", "BranchView", "ModelView", "PipelineView", "class_text", "describe", "shown", "size_text"]

_MIB: Final = 1 << 20
_MAX_CLASSES: Final = 16


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model: what its file says, and how it is read."""

    model_id: str
    model_type: str
    file: str
    file_bytes: int
    layout: str
    input_wh: tuple[int, int]
    is_open_size: bool
    """Whether the model takes other input sizes as well."""
    pixels: str
    """What becomes of a pixel, such as ``rgb 0..1``."""
    fitting: str
    """How a picture is brought to the input's size."""
    outputs: dict[str, tuple[int, ...]]
    read_outputs: tuple[str, ...]
    classes: tuple[str | None, ...]
    """By class id; of a text model its symbols."""
    min_confidence: float

    @property
    def kind(self) -> str:
        """What it does, and in which layout it answers."""
        return self.model_type if self.layout == self.model_type else f"{self.model_type}, {self.layout}"


@dataclass(frozen=True, slots=True)
class ActionView:
    """One action: what it writes, and where to."""

    type: str
    name: str
    target: str
    """Table, key or channel."""
    details: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    """Templates by column, or by key of a message."""


@dataclass(frozen=True, slots=True)
class BranchView:
    """One branch, with what is nested in it."""

    model: ModelView
    result: str
    """The name under which templates find its label."""
    sees: str
    details: dict[str, str]
    actions: tuple[ActionView, ...]
    branches: tuple["BranchView", ...]


@dataclass(frozen=True, slots=True)
class PipelineView:
    """The whole of an archive."""

    archive: str
    sha256: str
    detector: ModelView
    visit: dict[str, str]
    """When an object counts as a visit."""
    actions: tuple[ActionView, ...]
    branches: tuple[BranchView, ...]
    parallel_actions: tuple[ActionView, ...]
    tables: Mapping[str, Mapping[str, str]]
    warnings: tuple[str, ...]


def describe(pipeline: LoadedPipeline, archive: str) -> PipelineView:
    """Describe a loaded pipeline."""
    config = pipeline.config
    return PipelineView(
        archive=archive,
        sha256=pipeline.sha256,
        detector=_model(pipeline.models[config.model_id]),
        visit=_visit(config),
        actions=_actions(config.actions),
        branches=_branches(config.branches, pipeline.models),
        parallel_actions=_actions(config.parallel_actions),
        tables=config.tables,
        warnings=pipeline.warnings,
    )


def shown(text: str, limit: int = 120) -> str:
    """Return a text of an archive as it may be shown: on one line, of bounded length, without control characters."""
    plain = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: limit + 1])
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def size_text(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / _MIB:.1f} MiB" if count >= _MIB else f"{count / 1024:.1f} KiB"


def class_text(model: ModelView) -> str:
    """Return the names of a model's classes, or its symbols, the first of many."""
    named = [name for name in model.classes if name]
    if model.model_type == "ocr":
        return shown(" ".join(named), 160)
    more = f", … ({len(named)} in all)" if len(named) > _MAX_CLASSES else ""
    return ", ".join(shown(name, 40) for name in named[:_MAX_CLASSES]) + more


def _model(model: LoadedModel) -> ModelView:
    settings, reading, pixel = model.settings, model.reading, model.reading.preprocessing
    ranges = {1.0: "0..255", 1 / 255: "0..1"}
    pixels = f"{pixel.color} {ranges.get(pixel.scale) or f'× {pixel.scale:.6g}'}"
    if any(pixel.mean) or set(pixel.std) != {1.0}:
        pixels += f", less {_numbers(pixel.mean)}, by {_numbers(pixel.std)}"
    path = model.config.path
    paths = (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)
    return ModelView(
        model_id=settings.model_id,
        model_type=settings.model_type,
        file=settings.model_file,
        file_bytes=sum(path.stat().st_size for path in paths),
        layout=reading.layout,
        input_wh=(model.spec.input_hw[1], model.spec.input_hw[0]),
        is_open_size=model.spec.is_dynamic,
        pixels=pixels,
        fitting="stretched" if reading.letterbox == "none" else f"letterbox {reading.letterbox}",
        outputs=dict(model.spec.outputs),
        read_outputs=reading.outputs,
        classes=reading.class_names,
        min_confidence=settings.min_confidence,
    )


def _visit(config: PipelineConfig) -> dict[str, str]:
    stability, tracking = config.stability, config.tracking
    facts = {
        "stable after": f"{stability.min_frames} frames and {stability.min_seconds:g} s, overlap {stability.min_iou:g}",
        "tracking": f"{tracking.method}, lost after {tracking.max_lost_seconds:g} s",
        "same visit": f"when back within {stability.reentry_seconds:g} s",
    }
    names = {
        "frames with": config.trigger_classes,
        "any of": config.expected_classes,
        "all of": config.required_classes,
    }
    facts |= {label: ", ".join(classes) for label, classes in names.items() if classes}
    if config.target_fps is not None:
        facts["frame rate"] = f"at most {config.target_fps:g} a second"
    return facts


def _branches(branches: Sequence[BranchConfig], models: Mapping[str, LoadedModel]) -> tuple[BranchView, ...]:
    return tuple(
        BranchView(
            model=_model(models[branch.model_id]),
            result=f"{branch.model_id}.{branch.result_field}",
            sees=_sees(branch),
            details=_branch_details(branch),
            actions=_actions(branch.actions),
            branches=_branches(branch.branches, models),
        )
        for branch in branches
    )


def _sees(branch: BranchConfig) -> str:
    if not branch.crop:
        return "the whole frame"
    padding = f", margin {branch.crop_padding:.0%}" if branch.crop_padding else ""
    return f"a crop of {branch.crop_class or 'the object'}{padding}"


def _branch_details(branch: BranchConfig) -> dict[str, str]:
    details = {"runs": "beside the others" if branch.parallel else "in its turn"}
    details["runs"] += f", at most {branch.timeout_seconds:g} s" + ("" if branch.required else ", may fail")
    if branch.trigger_classes:
        details["only with"] = ", ".join(branch.trigger_classes)
    if branch.voting is not None:
        details["voting"] = f"{branch.voting.frames} pictures, {branch.voting.method}"
    return details


def _actions(actions: Sequence[ActionConfig]) -> tuple[ActionView, ...]:
    return tuple(_action(action) for action in actions)


def _action(action: ActionConfig) -> ActionView:
    details, fields = dict[str, str](), dict[str, str]()
    match action:
        case PostgresqlCreate():
            target, fields = action.table, _templates(action.fields)
        case PostgresqlUpdate():
            target, fields = action.table, _templates(action.fields)
            details["row"] = f"{action.key_field} = {action.key_value}"
            if action.wait_for_branches:
                details["waits for"] = ", ".join(action.wait_for_branches)
        case RedisSaveImage():
            target = action.key
            details["picture"] = f"{action.region}, {action.format} {action.quality}"
            details["kept"] = f"{action.expire_seconds} s"
        case PublishMessageAction():
            target, details = action.channel, {"dropped": f"after {action.max_age_seconds:g} s"}
            fields = _templates(action.message if isinstance(action.message, dict) else {"message": action.message})
    if action.when is not None:
        tests = action.when.model_dump(exclude_unset=True, exclude={"field"})
        details["only when"] = f"{action.when.field} " + ", ".join(
            f"{name} {_text(one)}" for name, one in tests.items()
        )
    return ActionView(action.type, action.result_name, target, details, fields)


def _templates(fields: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in fields.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
