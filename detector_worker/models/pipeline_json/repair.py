"""A faulty ``pipeline.json`` read as it was probably meant, so that one round finds the faults of all its parts.

What pydantic refuses is renamed, taken out or replaced by a stand-in, in place: indices stay what they are. A stand-in
is a word that no file can hold; whoever finds one among the known names knows that their list is not complete.
"""

import secrets
from copy import deepcopy
from itertools import count
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from detector_worker.models.pipeline_config import PipelineFile
from detector_worker.models.pipeline_json.schema import ACTION_TYPES, Schema, nearest_word, pipeline_schema, schema_of

__all__ = ["CLOSE", "Location", "as_meant", "is_stand_in", "key_owner", "plain_location"]

Location = tuple[int | str, ...]
CLOSE: Final = 0.8
"""How alike a key must be to a known one, of 1, to be taken for it."""

_MARK: Final = f"\ue000{secrets.token_hex(8)}"
_NUMBERS: Final = count()
_SCHEMA: Final[Schema] = pipeline_schema()
_LISTS: Final = {"branches": "branch", "actions": "action", "parallelActions": "action"}
_MAX_ROUNDS: Final = 8
_MAX_RENAMED: Final = 50


def is_stand_in(text: str) -> bool:
    """True if a text stands for something that could not be read."""
    return text.startswith(_MARK)


def as_meant(document: Any, *, lenient: bool) -> tuple[PipelineFile | None, list[ErrorDetails]]:
    """Read a document in spite of its faults, leaving it as it is.

    Args:
        document: What the JSON text says.
        lenient: Unknown keys are passed over, not taken for others.

    Returns:
        The file, as far as it can be made sense of, and the errors within parts whose key was taken for another.
    """
    document, renamed, errors = deepcopy(document), list[Location](), list[ErrorDetails]()
    for _ in range(_MAX_ROUNDS):
        try:
            return PipelineFile.model_validate(document, extra="ignore" if lenient else None), errors
        except ValidationError as exc:
            found = exc.errors(include_url=False)
        for error in found:
            location = plain_location(error["loc"])
            if any(location[: len(place)] == place for place in renamed):
                errors.append(error)
        for error in found:
            _mend(document, plain_location(error["loc"]), error["type"], renamed)
    return None, errors


def plain_location(location: Location) -> Location:
    """Leave out the tag that pydantic puts in for an action's kind: it is no part of the file."""
    kept = list(location[:2])
    for *before, step in zip(location, location[1:], location[2:], strict=False):
        if not (before[0] in _LISTS and isinstance(before[1], int) and step in ACTION_TYPES):
            kept.append(step)
    return tuple(kept)


def key_owner(document: Any, location: Location) -> tuple[dict[str, Any], Schema, int] | None:
    """Return the innermost object on the way to a place whose keys are fixed, its schema, and where its key stands.

    ``location[index]`` is that object's key. None: not even the file as a whole is an object.
    """
    found: tuple[dict[str, Any], Schema, int] | None = None
    value, schema = document, _SCHEMA
    for index, step in enumerate(location):
        schema = schema_of(schema, value)
        if isinstance(step, int):
            if not isinstance(value, list) or step >= len(value):
                break
            value, schema = value[step], schema.get("items", {})
        elif isinstance(value, dict) and "properties" in schema:
            found = value, schema, index
            value, schema = value.get(step), schema["properties"].get(step, {})
        else:
            break
    return found


def _mend(document: Any, location: Location, kind: str, renamed: list[Location]) -> None:
    """Make one error go away; where a key is taken for another, its new place goes to ``renamed``."""
    owner = key_owner(document, location)
    if owner is None:
        return
    values, schema, index = owner
    key, inner = str(location[index]), location[index + 1 :]
    if kind == "extra_forbidden":
        if key not in values:
            return
        value, known = values.pop(key), [name for name in schema["properties"] if name not in values]
        meant = nearest_word(key, known, cutoff=CLOSE) if len(renamed) < _MAX_RENAMED else None
        if meant is None:
            _note_loss(values, schema, value)
        else:
            values[meant] = value
            renamed.append((*location[:index], meant))
    elif key in _LISTS and inner and isinstance(inner[0], int) and isinstance(values.get(key), list):
        values[key][inner[0]] = _stand_in(_LISTS[key])
    elif key in _LISTS:
        values[key] = [_stand_in(_LISTS[key])]
    elif key in schema.get("required", ()) or key in {"id", "resultField"}:
        values[key] = _value_for(schema["properties"][key])
        if key == "modelType":  # on which the name of the result depends
            values.setdefault("resultField", _word())
    else:
        values.pop(key, None)


def _note_loss(values: dict[str, Any], schema: Schema, value: Any) -> None:
    """Put in a stand-in for what an unknown key may have been meant to name."""
    own = schema["properties"]
    if isinstance(value, list | dict) and "branches" in own:
        branches = values.setdefault("branches", [])
        if isinstance(branches, list):
            branches.append(_stand_in("branch"))
    if isinstance(value, str):
        for name in {"id", "resultField"} & own.keys():
            values.setdefault(name, _word())


def _stand_in(kind: str) -> dict[str, Any]:
    if kind == "branch":
        return {"modelId": _word(), "modelFile": _word(), "modelType": "detection", "resultField": _word()}
    return {"type": "redis_save_image", "id": _word(), "key": _word()}


def _word() -> str:
    return f"{_MARK}{next(_NUMBERS)}"


def _value_for(schema: Schema) -> Any:
    """Return a value that a required key may have."""
    if "enum" in schema:
        return schema["enum"][0]
    return {_word(): None} if schema.get("type") == "object" else _word()
