"""From the bytes of a ``pipeline.json`` to a `PipelineConfig`, with all of its faults told at once.

A fault names the JSON path, the kind of what stands there and what is allowed; no value that could be a secret.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final, get_args

import orjson
from pydantic import ValidationError

from detector_worker.core.exceptions import PipelineError
from detector_worker.models.pipeline_config import ActionConfig, PipelineConfig, PipelineFile

__all__ = ["did_you_mean", "parse_pipeline", "refuse"]

_MAX_BYTES: Final = 4 << 20
_MAX_DEPTH: Final = 64
_MAX_TOLD: Final = 50
_PLAIN: Final = re.compile(r"[\w.-]{1,60}", re.ASCII)

_SCHEMAS: Final = PipelineFile.model_json_schema()["$defs"].values()
_KEYS: Final = sorted({key for schema in _SCHEMAS for key in schema["properties"]})
_ACTION_TYPES: Final = [one.__annotations__["type"] for one in get_args(get_args(ActionConfig)[0])]
_ACTIONS: Final = [kind for words in _ACTION_TYPES for kind in get_args(words)]


def parse_pipeline(content: bytes, *, where: str) -> tuple[PipelineConfig, tuple[str, ...]]:
    """Parse and validate the file; returns the pipeline, and warnings.

    A file without ``schemaVersion`` is of an older kind: keys that nobody knows are passed over with a warning.

    Raises:
        PipelineError: No JSON, or what it holds is wrong; all faults in one message.
    """
    document = _load_json(content, where)
    try:
        return PipelineFile.model_validate(document).pipeline, ()
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
    is_old = isinstance(document, dict) and "schemaVersion" not in document
    if not is_old or any(error["type"] != "extra_forbidden" for error in errors):
        refuse(map(_fault, errors), where)
    warnings = tuple(f"{_fault(error)}: it is ignored" for error in errors[:_MAX_TOLD])
    return PipelineFile.model_validate(document, extra="ignore").pipeline, warnings


def refuse(faults: Iterable[str], where: str) -> None:
    """Raise one PipelineError of all faults, if there are any; of very many it tells the first."""
    told = list(islice(faults, _MAX_TOLD + 1))
    if len(told) > _MAX_TOLD:
        told[-1] = "more"
    if told:
        what, mend = "\nand ".join(told), "Correct pipeline.json and pack the archive again."
        raise PipelineError(f"The pipeline is wrong: {what}", where=where, mend=mend)


def did_you_mean(word: str, known: list[str]) -> str:
    """Return a hint at the nearest known word, to be put behind a fault; empty where none is near."""
    plain = {one.lower().replace("_", ""): one for one in known}
    nearest = get_close_matches(word[:100].lower().replace("_", ""), plain, n=1)
    return f"; did you mean {plain[nearest[0]]!r}?" if nearest else ""


def _load_json(content: bytes, where: str) -> Any:
    document, faults = None, []
    if len(content) > _MAX_BYTES:
        faults = [f"it is larger than {_MAX_BYTES >> 20} MiB"]
    try:
        document = orjson.loads(content.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as exc:
        faults = [f"it is no JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}"]
    level = [document]
    for _ in range(_MAX_DEPTH):
        parents = [list(value.values()) if isinstance(value, dict) else value for value in level]
        level = [inner for value in parents if isinstance(value, list) for inner in value]
    if level:
        faults = [f"it is nested deeper than {_MAX_DEPTH} levels"]
    refuse(faults, where)
    return document


def _fault(error: Any) -> str:
    """Put one of pydantic's errors into our words."""
    path, kind, value = _path(error["loc"]), error["type"], error["input"]
    if kind == "extra_forbidden":
        return f"{path} is not known{did_you_mean(str(error['loc'][-1]), _KEYS)}"
    if kind == "missing":
        return f"{path} is missing"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        tag = value.get("type") if isinstance(value, dict) else None
        hint = did_you_mean(str(tag), _ACTIONS)
        return f"{path}.type: {_kind_of(tag, shown=True)} stands there, which is no kind of action{hint}"
    allowed = str(error["msg"]).removeprefix("Input should be ")
    words = re.findall(r"'([^']+)'", allowed) if kind == "literal_error" else []
    hint = did_you_mean(str(value), words)
    return f"{path}: {_kind_of(value, shown=bool(words))} stands there, allowed is {allowed}{hint}"


def _kind_of(value: Any, *, shown: bool) -> str:
    """Say what a value is; numbers are shown, texts only where they are plain words in a place of fixed words."""
    if isinstance(value, str):
        return repr(value) if shown and _PLAIN.fullmatch(value) else f"a text of {len(value)} characters"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    return orjson.dumps(value).decode()


def _path(location: tuple[int | str, ...]) -> str:
    """Write a location as a JSON path; the tag that pydantic puts in for an action's kind is no part of it."""
    text = ""
    for before, step in zip((None, *location), location, strict=False):
        if not (isinstance(before, int) and step in _ACTIONS):
            text += f"[{step}]" if isinstance(step, int) else f".{step[:80]}"
    return text.removeprefix(".") or "the file"
