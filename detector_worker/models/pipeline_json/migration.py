"""A ``pipeline.json`` without ``schemaVersion`` rewritten to version 1, every change told."""

from copy import deepcopy
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from detector_worker.models.pipeline_config import PipelineFile
from detector_worker.models.pipeline_json.document import (
    DocumentError,
    load_document,
    printable,
    repeated_keys,
    write_path,
)
from detector_worker.models.pipeline_json.parser import describe_error, refuse
from detector_worker.models.pipeline_json.repair import CLOSE, Location, key_owner, plain_location
from detector_worker.models.pipeline_json.schema import nearest_word

__all__ = ["migrate_pipeline"]

_CONNECTIONS: Final = ("postgresql", "redis")
_MAX_CHANGES: Final = 200


def migrate_pipeline(content: bytes, *, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Rewrite a file; what it does not know goes, unless it is a slip for a key whose value fits.

    Returns:
        The new document, which may still have faults of other kinds, and what was changed, a line each.

    Raises:
        PipelineError: It is no JSON object with a ``pipeline``.
    """
    try:
        old = load_document(content)
    except DocumentError as exc:
        refuse([str(exc)], where)
    if not isinstance(old, dict) or not isinstance(old.get("pipeline"), dict):
        refuse(["the file is no object with a pipeline in it"], where)
    changes = [f"{path} stood there twice: the last one is kept" for path in repeated_keys(content)[:_MAX_CHANGES]]
    document = old if "schemaVersion" in old else {"schemaVersion": 1, **old}
    if document is not old:
        changes.append("schemaVersion: set to 1")
    dropped = [name for name in _CONNECTIONS if document["pipeline"].pop(name, None) is not None]
    changes += [f"pipeline.{name}: dropped; connections are the worker's own settings" for name in dropped]
    while len(changes) < _MAX_CHANGES and (unknown := _errors(document, "extra_forbidden")):
        changes.append(_settle(document, unknown[0]))
    return document, (*changes, *_pickles(document))


def _settle(document: Any, error: ErrorDetails) -> str:
    """Rename or drop one unknown key; returns what was done."""
    location = plain_location(error["loc"])
    owner = key_owner(document, location)
    assert owner is not None, "pydantic knew the object"
    values, schema, index = owner
    key = str(location[index])
    free = [name for name in schema["properties"] if name not in values]
    meant = nearest_word(key, free, cutoff=CLOSE)
    if meant is not None and _fits(document, location, meant):
        _rename(values, key, meant)
        return f"{write_path(location)}: renamed to {meant}"
    told = describe_error(error, document)
    del values[key]
    return f"{told}: dropped"


def _fits(document: Any, location: Location, meant: str) -> bool:
    trial = deepcopy(document)
    owner = key_owner(trial, location)
    assert owner is not None, "it is a copy"
    _rename(owner[0], str(location[owner[2]]), meant)
    place = (*location[: owner[2]], meant)
    errors = [plain_location(error["loc"]) for error in _errors(trial)]
    return all(one[: len(place)] != place for one in errors)


def _rename(values: dict[str, Any], key: str, meant: str) -> None:
    """Give a key another name, in its place."""
    renamed = {meant if name == key else name: value for name, value in values.items()}
    values.clear()
    values.update(renamed)


def _errors(document: Any, kind: str | None = None) -> list[ErrorDetails]:
    try:
        PipelineFile.model_validate(document)
    except ValidationError as exc:
        return [error for error in exc.errors(include_url=False) if kind in {None, error["type"]}]
    return []


def _pickles(document: Any) -> list[str]:
    """Say which model files have to be converted by hand: it takes their maker's word that they are harmless."""
    found, pending = list[str](), list[tuple[Location, Any]]([(("pipeline",), document["pipeline"])])
    while pending:
        path, model = pending.pop(0)
        if isinstance(model, dict):
            file, branches = model.get("modelFile"), model.get("branches")
            if isinstance(file, str) and file.endswith(".pt"):
                name, place = printable(file), write_path((*path, "modelFile"))
                command = f"`detector-worker mpta convert {name} --allow-pickle`"
                found.append(f"{place}: {name} stays; {command}, then name the .onnx here")
            if isinstance(branches, list):
                pending += [((*path, "branches", index), branch) for index, branch in enumerate(branches)]
    return found
