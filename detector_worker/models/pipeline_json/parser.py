"""From the bytes of a ``pipeline.json`` to a `PipelineConfig`, with all of its faults told at once.

A fault names the JSON path, the kind of what stands there and what is allowed; no value that could be a secret.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from detector_worker.core.exceptions import PipelineError
from detector_worker.models.pipeline_config import PipelineConfig, PipelineFile
from detector_worker.models.pipeline_json.document import DocumentError, load_document, repeated_keys, write_path
from detector_worker.models.pipeline_json.repair import as_meant, key_owner, plain_location
from detector_worker.models.pipeline_json.schema import ACTION_TYPES, did_you_mean

__all__ = ["ExaminedPipeline", "describe_error", "examine_pipeline", "faults_of", "refuse"]

_MAX_TOLD: Final = 50
_PLAIN: Final = re.compile(r"[\w.-]{1,60}", re.ASCII)
_HEAD: Final = "The pipeline is wrong: "
_BETWEEN: Final = "\nand "


@dataclass(frozen=True, slots=True)
class ExaminedPipeline:
    """What a file says, as far as it can be read, and what is wrong with its text."""

    config: PipelineConfig | None
    """With faults it is the pipeline as it was probably meant, with stand-ins; None: nothing could be made of it."""
    faults: tuple[str, ...]
    """The first of them; empty: the file is right as far as no other file is looked at."""
    warnings: tuple[str, ...]


def examine_pipeline(content: bytes) -> ExaminedPipeline:
    """Read a file and find every fault of its text.

    A file without ``schemaVersion`` is of an older kind: keys that nobody knows are passed over with a warning, and
    of a key that stands twice the last value is taken.
    """
    try:
        document = load_document(content)
    except DocumentError as exc:
        return ExaminedPipeline(None, (str(exc),), ())
    is_old = isinstance(document, dict) and "schemaVersion" not in document
    faults, ignored = [f"{path} stands there twice" for path in repeated_keys(content)[:_MAX_TOLD]], list[str]()
    if is_old:
        faults, ignored = [], [f"{fault}: the last one is taken" for fault in faults]
    try:
        file: PipelineFile | None = PipelineFile.model_validate(document)
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
        if is_old:
            unknown = [error for error in errors if error["type"] == "extra_forbidden"][:_MAX_TOLD]
            ignored += [f"{describe_error(error, document)}: it is ignored" for error in unknown]
            errors = [error for error in errors if error["type"] != "extra_forbidden"]
        faults += [describe_error(error, document) for error in errors[: _MAX_TOLD + 1]]
        file, further = as_meant(document, lenient=is_old)
        faults += [describe_error(error, None) for error in further]
    return ExaminedPipeline(file.pipeline if file else None, tuple(faults), tuple(ignored))


def refuse(faults: Iterable[str], where: str) -> None:
    """Raise one PipelineError of all faults, if there are any; of very many it tells the first."""
    told = list(islice(dict.fromkeys(faults), _MAX_TOLD + 1))
    if len(told) > _MAX_TOLD:
        told[-1] = "more"
    if told:
        mend = "Correct pipeline.json and pack the archive again."
        raise PipelineError(_HEAD + _BETWEEN.join(told), where=where, mend=mend)


def faults_of(error: PipelineError) -> list[str]:
    """Take apart what `refuse` put together."""
    return error.what.removeprefix(_HEAD).split(_BETWEEN)


def describe_error(error: ErrorDetails, document: Any) -> str:
    """Put one of pydantic's errors about a document into our words, with the nearest key of the same object."""
    location, kind, value = plain_location(error["loc"]), error["type"], error["input"]
    path = write_path(location)
    if kind == "extra_forbidden":
        owner = key_owner(document, location)
        known = list(owner[1]["properties"]) if owner else []
        return f"{path} is not known{did_you_mean(str(location[-1]), known)}"
    if kind == "missing":
        return f"{path} is missing"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        tag = value.get("type") if isinstance(value, dict) else None
        hint = did_you_mean(str(tag), ACTION_TYPES)
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
