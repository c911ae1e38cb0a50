"""From the bytes of a ``pipeline.json`` to a `PipelineConfig`, with all of its faults told at once.

A fault names the JSON path, the kind of what stands there and what is allowed; never the value itself where it
could be a secret or long.
"""

import re
from difflib import get_close_matches
from typing import Any, Final, get_args

import orjson
from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo

from detector_worker.core.exceptions import PipelineError
from detector_worker.models.pipeline_config import PipelineConfig, PipelineFile

__all__ = ["parse_pipeline", "refuse"]

_MAX_BYTES: Final = 4 << 20
_MAX_DEPTH: Final = 64
_MAX_TOLD: Final = 50
_PLAIN: Final = re.compile(r"[\w.-]{1,60}", re.ASCII)
Location = tuple[int | str, ...]


def parse_pipeline(content: bytes, *, where: str) -> tuple[PipelineConfig, tuple[str, ...]]:
    """Parse and validate the file.

    A file without ``schemaVersion`` is of an older kind: keys that nobody knows are passed over with a warning.

    Returns:
        The pipeline, and warnings.

    Raises:
        PipelineError: No JSON, or what it holds is wrong; all faults in one message.
    """
    document = _load_json(content, where)
    lenient = isinstance(document, dict) and "schemaVersion" not in document
    warnings: list[str] = []
    while True:
        try:
            return PipelineFile.model_validate(document).pipeline, tuple(warnings)
        except ValidationError as exc:
            errors = exc.errors(include_input=False, include_url=False, include_context=True)
        unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
        if not lenient or not unknown:
            raise refuse([_fault(document, error) for error in errors], where)
        for location in unknown:
            warnings.append(f"{_path(location)} is not known and passed over{_nearest_key(location)}")
            _remove(document, location)


def refuse(faults: list[str], where: str) -> PipelineError:
    """Make one error of many faults."""
    told = faults[:_MAX_TOLD]
    if len(faults) > _MAX_TOLD:
        told.append(f"and {len(faults) - _MAX_TOLD} more")
    return PipelineError(
        "The pipeline is wrong: " + "; ".join(told)
        if len(told) == 1
        else "The pipeline is wrong:\n- " + "\n- ".join(told),
        where=where,
        mend="Correct pipeline.json and pack the archive again.",
    )


def _load_json(content: bytes, where: str) -> Any:
    if len(content) > _MAX_BYTES:
        raise refuse([f"it is larger than {_MAX_BYTES >> 20} MiB"], where)
    try:
        document = orjson.loads(content.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as exc:
        raise refuse([f"it is no JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}"], where) from exc
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise refuse([f"it is nested deeper than {_MAX_DEPTH} levels"], where)
        level = [inner for value in level for inner in _children(value)]
    return document


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _fault(document: Any, error: Any) -> str:
    """Put one of pydantic's errors into our words."""
    location: Location = error["loc"]
    path, kind = _path(location), error["type"]
    found, value = _look_up(document, location)
    allowed = str(error["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{path} is not known{_nearest_key(location)}"
    if kind == "missing":
        return f"{path} is missing"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        tag = value.get("type") if isinstance(value, dict) else None
        nearest = _nearest(str(tag), re.findall(r"'([^']+)'", str(context.get("expected_tags", ""))))
        return f"{path}.type: {_kind_of(tag, shown=True)} stands there, which is no kind of action{nearest}"
    nearest = _nearest(str(value), re.findall(r"'([^']+)'", allowed)) if kind == "literal_error" else ""
    stands = f"{_kind_of(value, shown=kind == 'literal_error')} stands there" if found else "is wrong"
    return f"{path}: {stands}, allowed is {allowed}{nearest}"


def _kind_of(value: Any, *, shown: bool) -> str:
    """Say what a value is; numbers are shown, texts only where they are plain words in a place of fixed words."""
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case int() | float():
            return f"the number {value:.15g}"
        case str() if shown and _PLAIN.fullmatch(value):
            return repr(value)
        case str():
            return f"a text of {len(value)} characters"
        case list():
            return f"a list of {len(value)}"
        case _:
            return "an object"


def _path(location: Location) -> str:
    """Write a location as a JSON path; the tags that pydantic puts in for a union's member are no part of it."""
    steps, _ = _walk(location)
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:80]}" for step in steps)
    return text.removeprefix(".") or "the file"


def _nearest_key(location: Location) -> str:
    """Suggest the known key that an unknown one may have meant."""
    _, models = _walk(location[:-1])
    keys = {_key(name, info) for model in models for name, info in model.model_fields.items()}
    return _nearest(str(location[-1]), sorted(keys))


def _nearest(word: str, candidates: list[str]) -> str:
    lowered = {candidate.lower().replace("_", ""): candidate for candidate in candidates}
    nearest = get_close_matches(word.lower().replace("_", ""), lowered, n=1)
    return f"; did you mean {lowered[nearest[0]]!r}?" if nearest else ""


def _walk(location: Location) -> tuple[list[int | str], list[type[BaseModel]]]:
    """Follow a location through the models: the steps within the document, and the models that stand at its end."""
    steps: list[int | str] = []
    models: list[type[BaseModel]] = [PipelineFile]
    for step in location:
        tagged = [model for model in models if isinstance(step, str) and step in _tags(model)]
        if tagged and len(models) > 1:
            models = tagged
            continue
        steps.append(step)
        if isinstance(step, str):
            fields = [
                info.annotation
                for model in models
                for name, info in model.model_fields.items()
                if step in {name, _key(name, info)}
            ]
            models = [model for annotation in fields for model in _models_in(annotation)]
    return steps, models


def _key(name: str, info: FieldInfo) -> str:
    """Name a field as the file does."""
    alias = info.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else str(alias or name)


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    info = model.model_fields.get("type")
    return get_args(info.annotation) if info is not None else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Find the models that an annotation such as ``tuple[A | B, ...]`` speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _look_up(document: Any, location: Location) -> tuple[bool, Any]:
    """Return whether something stands at a location, and what."""
    value = document
    for step in _walk(location)[0]:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return False, None
    return True, value


def _remove(document: Any, location: Location) -> None:
    """Take an unknown key out of the document."""
    *steps, key = _walk(location)[0]
    for step in steps:
        document = document[step]
    del document[key]
