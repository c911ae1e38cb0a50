"""What is allowed in a ``pipeline.json`` but hardly meant: told when an archive is checked or loaded, never refused."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Final

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
from detector_worker.models.pipeline_json.schema import did_you_mean
from detector_worker.models.pipeline_json.templates import parse_template

__all__ = ["class_doubts", "pipeline_warnings"]

_UNIQUE_NAMES: Final = frozenset({"record_id", "timestamp", "filename", "uuid"})


def pipeline_warnings(config: PipelineConfig) -> Iterator[str]:
    """Find what has no effect, or an effect that nobody wants."""
    for name in ("postgresql", "redis"):
        if getattr(config, name) is not None:
            yield f"pipeline.{name} is ignored: connections are the worker's own settings"
    branches, actions = config.all_branches(), config.all_actions()
    for path, model in {"pipeline": config, **branches}.items():
        yield from _name_warnings(path, model)
    for path, branch in branches.items():
        if branch.crop_class and not branch.crop:
            yield f"{path}.cropClass has no effect without crop: true"
        if branch.crop_padding and not branch.crop:
            yield f"{path}.cropPadding has no effect without crop: true"
    for (_, first), (path, second) in combinations(branches.items(), 2):
        if _reading(first) == _reading(second):
            yield f"{path} asks the same model for the same output as {first.model_id!r} does"
    yield from _picture_warnings(actions)
    yield from _update_warnings(actions)
    yield from _table_warnings(config.tables, actions)


def class_doubts(config: PipelineConfig, models: Mapping[str, LoadedModel]) -> Iterator[str]:
    """Find models, given by their id, of whose classes the last have no name although no other is left out."""
    for path, settings in {"pipeline": config, **config.all_branches()}.items():
        names, count = settings.classes or (), len(models[settings.model_id].reading.class_names)
        if settings.model_type != "ocr" and names and None not in names and len(names) < count:
            yield f"{path}.classes names {len(names)} of {count} classes; null for those that are not used"


def _name_warnings(path: str, model: ModelSettings) -> Iterator[str]:
    if model.alphabet and model.model_type != "ocr":
        yield f"{path}.alphabet has no effect: only a model of the type ocr has symbols"
    spellings = dict[str, str]()
    for name in model.classes or ():
        if name and (other := spellings.setdefault(name.casefold(), name)) != name:
            yield f"{path}.classes: {printable(other)} and {printable(name)} are the same but for case"


def _reading(branch: BranchConfig) -> tuple[object, ...]:
    seen = (branch.crop and branch.crop_class, branch.crop, branch.crop_padding, branch.resize_target, branch.input)
    return (branch.model_file, branch.output, *seen)


def _picture_warnings(actions: dict[str, ActionConfig]) -> Iterator[str]:
    """Keys under which one visit's picture replaces another's."""
    unique, keys = _UNIQUE_NAMES | _created(actions), dict[str, str]()
    for path, action in actions.items():
        if not isinstance(action, RedisSaveImage):
            continue
        if unique.isdisjoint(_names(action.key)):
            yield f"{path}.key is the same for many visits: each picture replaces the last; put {{record_id}} into it"
        if (other := keys.setdefault(action.key, path)) != path:
            yield f"{path}.key is that of {other}: the second picture replaces the first"


def _update_warnings(actions: dict[str, ActionConfig]) -> Iterator[str]:
    """Updates of rows that nothing in the pipeline makes."""
    made, created = dict[str, dict[str, object]](), _created(actions)
    for path, action in actions.items():
        if isinstance(action, PostgresqlCreate):
            made.setdefault(action.table, {}).update(action.fields)
        elif isinstance(action, PostgresqlUpdate):
            is_made = made.get(action.table, {}).get(action.key_field) == action.key_value
            if not is_made and created.isdisjoint(_names(action.key_value)):
                written = f"{printable(action.key_value)} into {printable(action.table)}.{printable(action.key_field)}"
                yield f"{path}.key_value: no create before it writes {written}; is there always such a row?"


def _created(actions: dict[str, ActionConfig]) -> set[str]:
    """Names that stand for a row which the pipeline makes."""
    creates = [action for action in actions.values() if isinstance(action, PostgresqlCreate)]
    return {f"{action.result_name}.{name}" for action in creates for name in action.offers}


def _table_warnings(tables: dict[str, dict[str, str]], actions: dict[str, ActionConfig]) -> Iterator[str]:
    """Tables and columns that are not declared although others are."""
    for path, action in actions.items():
        if not tables or not isinstance(action, PostgresqlCreate | PostgresqlUpdate):
            continue
        if action.table not in tables:
            hint = did_you_mean(action.table, list(tables))
            yield f"{path}.table: {action.table[:80]!r} is not declared under tables as others are{hint}"
            continue
        for column in action.fields:
            if column not in tables[action.table]:
                hint = did_you_mean(column, list(tables[action.table]))
                yield f"{path}.fields: the column {column[:80]!r} is not declared under tables{hint}"


def _names(template: str) -> tuple[str, ...]:
    try:
        return parse_template(template).names
    except PipelineError:  # told as a fault
        return ()
