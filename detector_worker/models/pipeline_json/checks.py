"""What no single key of a ``pipeline.json`` can tell: whether its parts fit each other, its files and its models.

Every fault is a line that begins with a JSON path where there is one. Where a part could not be read and has a
stand-in (`pipeline_repair`), nothing is told that may only follow from that.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from detector_worker.core.exceptions import PipelineError
from detector_worker.models.model_manager import LoadedModel
from detector_worker.models.pipeline_config import (
    ActionConfig,
    BranchConfig,
    ModelSettings,
    PipelineConfig,
    PostgresqlCreate,
    PostgresqlUpdate,
    RedisSaveImage,
)
from detector_worker.models.pipeline_json.document import printable
from detector_worker.models.pipeline_json.parser import ExaminedPipeline, refuse
from detector_worker.models.pipeline_json.repair import is_stand_in
from detector_worker.models.pipeline_json.schema import did_you_mean
from detector_worker.models.pipeline_json.templates import CONTEXT_NAMES, parse_template

__all__ = ["checked_pipeline", "class_faults", "pipeline_faults", "template_faults"]

_RESERVED_FIELDS: Final = frozenset({"confidence", "error", "type"})
_TEMPLATE_KEYS: Final = ("fields", "key_value", "key", "channel", "message")
_MAX_IDENTIFIER_BYTES: Final = 63  # PostgreSQL would cut a longer one without a word
_Known = Mapping[str, Iterable[str | None]]
"""Class names by detector."""


def checked_pipeline(
    examined: ExaminedPipeline, folder: Path, *, where: str, allow_pickle: bool = False
) -> PipelineConfig:
    """Return the pipeline whose ``pipeline.json`` was read from a folder; looks at its files there.

    Raises:
        PipelineError: Something is wrong with its text, or with what shows without a model; all faults in one message.
    """
    config = examined.config
    refuse((*examined.faults, *(pipeline_faults(config, folder, allow_pickle=allow_pickle) if config else ())), where)
    assert config is not None, "a file without a fault is a pipeline"
    return config


def pipeline_faults(config: PipelineConfig, folder: Path, *, allow_pickle: bool = False) -> Iterator[str]:
    """Find what is wrong with a pipeline whose files lie in a folder, as far as no model is needed."""
    models: dict[str, ModelSettings] = {"pipeline": config, **config.all_branches()}
    if config.model_type != "detection":
        yield f"pipeline.modelType: it is {config.model_type!r}; a pipeline begins with 'detection'"
    for path, model in models.items():
        if fault := _file_fault(model.model_file, folder, allow_pickle=allow_pickle):
            yield f"{path}.modelFile: {fault}"
        if isinstance(model, BranchConfig) and model.result_field in _RESERVED_FIELDS:
            yield f"{path}.resultField: {model.result_field!r} has a meaning of its own in every result"
    yield from _id_faults(config)
    yield from _identifier_faults(config)
    yield from template_faults(config)
    detectors = [model for model in models.values() if model.model_type == "detection"]
    if config.model_type == "detection" and all(model.classes for model in detectors):
        yield from _class_faults(config, {model.model_id: model.classes or () for model in detectors})


def class_faults(config: PipelineConfig, models: Mapping[str, LoadedModel]) -> Iterator[str]:
    """Find classes that no detector of the pipeline knows; names are compared without regard to case."""
    detectors = {name: model for name, model in models.items() if model.settings.model_type == "detection"}
    return _class_faults(config, {name: model.reading.class_names for name, model in detectors.items()})


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
            if is_stand_in(text.removeprefix("{")):
                continue
            try:
                names = parse_template(text).names
            except PipelineError as exc:
                yield f"{where}: {exc.what}"
                continue
            for name in names:
                if name not in known and not _may_be_known(name, known):
                    yield f"{where}: {{{name[:80]}}} can never have a value here{did_you_mean(name, sorted(known))}"
        before |= _offered(action)


def _class_faults(config: PipelineConfig, classes_of: _Known) -> Iterator[str]:
    known = {detector: {one.casefold() for one in names if one} for detector, names in classes_of.items()}
    own, every = known.get(config.model_id, set()), set[str]().union(*known.values())
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
            hint = (
                did_you_mean(name, sorted(classes)) or f"; known are {', '.join(map(printable, sorted(classes)[:12]))}"
            )
            yield f"{path}: the detector knows no class {name[:80]!r}{hint}"


def _id_faults(config: PipelineConfig) -> Iterator[str]:
    """Find ids that are not unique, and branches that are waited for and do not exist."""
    branches, actions = [branch.model_id for branch in config.all_branches().values()], config.all_actions()
    names = [config.model_id, *branches, *(action.result_name for action in actions.values())]
    for name, count in Counter(names).items():
        if count > 1:
            yield f"the id {name[:80]!r} is used {count} times; give each model and action its own"
    for path, action in actions.items():
        for name in (isinstance(action, PostgresqlUpdate) and action.wait_for_branches) or ():
            if name not in branches and not any(map(is_stand_in, branches)):
                yield f"{path}.waitForBranches: there is no branch {name[:80]!r}{did_you_mean(name, branches)}"


def _identifier_faults(config: PipelineConfig) -> Iterator[str]:
    """Find names that no table and no column can have; a table's may be parted from its schema's by a dot."""
    names: list[tuple[str, str]] = []
    tables = [(f"pipeline.tables.{printable(table)}", table) for table in config.tables]
    names += [
        (f"pipeline.tables.{printable(table)}", name) for table, columns in config.tables.items() for name in columns
    ]
    for path, action in config.all_actions().items():
        if isinstance(action, PostgresqlCreate | PostgresqlUpdate):
            tables.append((f"{path}.table", action.table))
            names += [(f"{path}.fields", column) for column in action.fields]
        if isinstance(action, PostgresqlUpdate):
            names.append((f"{path}.key_field", action.key_field))
    if (session := config.session) is not None:
        tables.append(("pipeline.session.table", session.table))
        names.append(("pipeline.session.keyField", session.key_field))
    names += [(path, part) for path, table in tables for part in table.split(".", 1)]
    for path, name in names:
        if not name or "\0" in name or len(name.encode()) > _MAX_IDENTIFIER_BYTES:
            what = f"tables and columns have names of 1 to {_MAX_IDENTIFIER_BYTES} bytes without NUL"
            yield f"{path}: {name[:80]!r} is no name; {what}"


def _may_be_known(name: str, known: Iterable[str]) -> bool:
    """True if the name may be that of a result whose owner, or whose own name, could not be read."""
    owner, dot, _ = name.partition(".")
    owners = (one.partition(".") for one in known) if dot else ()
    return any(is_stand_in(other) or (other == owner and is_stand_in(field)) for other, _, field in owners)


def _offered(action: ActionConfig) -> set[str]:
    return {f"{action.result_name}.{name}" for name in action.offers}


def _texts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield every text within a value, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(f"{path}.{printable(key)}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(f"{path}[{index}]", inner)


def _file_fault(name: str, folder: Path, *, allow_pickle: bool) -> str | None:
    path = PurePosixPath(name)
    if is_stand_in(name):
        return None
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        return "the name leads out of the archive"
    if path.suffix == ".pt" and not allow_pickle:
        return "a .pt file runs code when it is loaded; make an .onnx of it with `detector-worker mpta convert`"
    if path.suffix not in {".onnx", ".xml", ".pt"}:
        return f"models are .onnx files, or .xml with .bin; not {printable(path.suffix) or 'without a suffix'}"
    needed = (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)
    return next((f"the archive holds no file {str(one)!r}" for one in needed if not (folder / one).is_file()), None)
