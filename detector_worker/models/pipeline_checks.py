"""What no single key of a ``pipeline.json`` can tell: whether its parts fit each other, its files and its models.

Every fault is a line that begins with a JSON path where there is one.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from detector_worker.core.exceptions import PipelineError
from detector_worker.models.model_manager import LoadedModel
from detector_worker.models.pipeline_config import (
    ActionConfig,
    BranchConfig,
    PipelineConfig,
    PostgresqlUpdate,
    RedisSaveImage,
)
from detector_worker.models.pipeline_parser import did_you_mean
from detector_worker.models.templates import CONTEXT_NAMES, parse_template

__all__ = ["class_faults", "pipeline_faults", "pipeline_warnings", "template_faults"]

_RESERVED_FIELDS: Final = frozenset({"confidence", "error", "type"})
_TEMPLATE_KEYS: Final = ("fields", "key_value", "key", "channel", "message")


def pipeline_faults(config: PipelineConfig, folder: Path) -> Iterator[str]:
    """Find what is wrong with a pipeline whose files lie in a folder, as far as no model is needed."""
    branches, actions = config.all_branches(), config.all_actions()
    names = [config.model_id, *(branch.model_id for branch in branches.values())]
    for name, count in Counter([*names, *(action.result_name for action in actions.values())]).items():
        if count > 1:
            yield f"the id {name!r} is used {count} times; give each model and action its own"
    if config.model_type != "detection":
        yield f"pipeline.modelType: it is {config.model_type!r}; a pipeline begins with 'detection'"
    for path, model in {"pipeline": config, **branches}.items():
        if fault := _file_fault(model.model_file, folder):
            yield f"{path}.modelFile: {fault}"
        if isinstance(model, BranchConfig) and model.result_field in _RESERVED_FIELDS:
            yield f"{path}.resultField: {model.result_field!r} has a meaning of its own in every result"
    for path, action in actions.items():
        for name in (isinstance(action, PostgresqlUpdate) and action.wait_for_branches) or ():
            if name not in names[1:]:
                yield f"{path}.waitForBranches: there is no branch {name!r}{did_you_mean(name, names[1:])}"
    yield from template_faults(config)


def pipeline_warnings(config: PipelineConfig) -> Iterator[str]:
    """Find what has no effect."""
    for name in ("postgresql", "redis"):
        if getattr(config, name) is not None:
            yield f"pipeline.{name} is ignored: connections are the worker's own settings"
    for path, branch in config.all_branches().items():
        if branch.crop_class and not branch.crop:
            yield f"{path}.cropClass has no effect without crop: true"


def class_faults(config: PipelineConfig, models: Mapping[str, LoadedModel]) -> Iterator[str]:
    """Find classes that no detector of the pipeline knows; names are compared without regard to case."""
    detectors = {name: model for name, model in models.items() if model.settings.model_type == "detection"}
    known = {name: {one.casefold() for one in model.reading.class_names if one} for name, model in detectors.items()}
    own, every = known[config.model_id], set[str]().union(*known.values())
    wanted = [("pipeline.triggerClasses", name, own) for name in config.trigger_classes]
    wanted += [("pipeline.expectedClasses", name, own) for name in config.expected_classes]
    wanted += [("pipeline.requiredClasses", name, own) for name in config.required_classes]
    for path, branch in config.all_branches().items():
        wanted += [(f"{path}.triggerClasses", name, every) for name in branch.trigger_classes]
        wanted += [(f"{path}.cropClass", branch.crop_class, every)] if branch.crop_class else []
    for path, action in config.all_actions().items():
        if isinstance(action, RedisSaveImage) and action.region_class:
            wanted.append((f"{path}.region", action.region_class, every))
    for path, name, classes in wanted:
        if name.casefold() not in classes:
            hint = did_you_mean(name, sorted(classes)) or f"; known are {', '.join(sorted(classes)[:12])}"
            yield f"{path}: the detector knows no class {name!r}{hint}"


def template_faults(config: PipelineConfig) -> Iterator[str]:
    """Find templates that cannot be parsed, and names that can never have a value.

    An action of ``actions`` may name the context and earlier actions; any other may name every branch and action.
    """
    actions, branches = config.all_actions(), config.all_branches().values()
    before = set(CONTEXT_NAMES)
    every = before.union(*map(_offered, actions.values()))
    every |= {f"{branch.model_id}.{name}" for branch in branches for name in (branch.result_field, "confidence")}
    for path, action in actions.items():
        known = before if path.startswith("pipeline.actions[") else every
        texts = {key: getattr(action, key, None) for key in _TEMPLATE_KEYS}
        texts["when.field"] = action.when and f"{{{action.when.field}}}"
        for where, text in _texts(path, texts):
            try:
                names = parse_template(text).names
            except PipelineError as exc:
                yield f"{where}: {exc.what}"
                continue
            for name in names:
                if name not in known:
                    yield f"{where}: {{{name[:80]}}} can never have a value here{did_you_mean(name, sorted(known))}"
        before |= _offered(action)


def _offered(action: ActionConfig) -> set[str]:
    return {f"{action.result_name}.{name}" for name in action.offers}


def _texts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield every text within a value, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(f"{path}.{key}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(f"{path}[{index}]", inner)


def _file_fault(name: str, folder: Path) -> str | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        return "the name leads out of the archive"
    if path.suffix == ".pt":
        return "a .pt file runs code when it is loaded; export it to .onnx"
    if path.suffix not in {".onnx", ".xml"}:
        return f"models are .onnx files, or .xml with .bin; not {path.suffix or 'without a suffix'}"
    needed = (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)
    return next((f"the archive holds no file {str(one)!r}" for one in needed if not (folder / one).is_file()), None)
