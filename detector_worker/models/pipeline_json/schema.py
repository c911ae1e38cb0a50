"""The JSON Schema of a ``pipeline.json``, made from its models: for editors, and for hints at the nearest key."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

from pydantic import AliasChoices, BaseModel

from detector_worker.models import pipeline_config
from detector_worker.models.pipeline_config import PipelineFile

__all__ = ["ACTION_TYPES", "Schema", "did_you_mean", "nearest_word", "pipeline_schema", "schema_of"]

Schema = Mapping[str, Any]
_ID: Final = "urn:detector-worker:pipeline:1"
_MAX_COMPARED_CHARS: Final = 100


def pipeline_schema() -> dict[str, Any]:
    """Return the schema that is published in ``docs/pipeline.schema.json``."""
    schema = PipelineFile.model_json_schema()
    for name, described in {"PipelineFile": schema, **schema["$defs"]}.items():
        properties = described["properties"]
        for own in properties.values():
            own.pop("title", None)  # the key once more, in capitals
        properties |= {other: properties[first] for first, other in _other_names(getattr(pipeline_config, name))}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": _ID, "title": "pipeline.json"}
    return head | {key: value for key, value in schema.items() if key != "title"}


def schema_of(schema: Schema, value: Any) -> Schema:
    """Return what describes a value where ``schema`` may be a reference or offer a choice; empty: nothing fits."""
    mapping = schema.get("discriminator", {}).get("mapping")
    if mapping is not None:
        kind = value.get("type") if isinstance(value, dict) else None
        schema = {"$ref": mapping[kind]} if isinstance(kind, str) and kind in mapping else {}
    for choice in schema.get("anyOf", ()):
        if "$ref" in choice or choice.get("type") == "array":
            schema = choice
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    return _DEFINITIONS[name] if name else schema


def nearest_word(word: str, known: list[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known word that is most alike, whatever its case and underscores; None where none is near."""
    plain = {one.lower().replace("_", ""): one for one in reversed(known)}  # of two ways to write it the first
    nearest = get_close_matches(word[:_MAX_COMPARED_CHARS].lower().replace("_", ""), plain, n=1, cutoff=cutoff)
    return plain[nearest[0]] if nearest else None


def did_you_mean(word: str, known: list[str]) -> str:
    """Return a hint at the nearest known word, to be put behind a fault; empty where none is near."""
    nearest = nearest_word(word, known)
    return f"; did you mean {nearest!r}?" if nearest else ""


def _other_names(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Yield the first and each further name of the fields that may be written in several ways."""
    for field in model.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            first, *others = field.validation_alias.choices
            yield from ((str(first), str(other)) for other in others)


_DEFINITIONS: Final[Mapping[str, Schema]] = pipeline_schema()["$defs"]
_ACTION: Final = _DEFINITIONS["PipelineConfig"]["properties"]["actions"]["items"]
ACTION_TYPES: Final = sorted(_ACTION["discriminator"]["mapping"])
"""Every word that names a kind of action."""
