"""The bytes of a ``pipeline.json`` as JSON, within bounds; keys that stand twice are found, not overwritten."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

__all__ = ["DocumentError", "load_document", "printable", "read_content", "repeated_keys", "write_path"]

_MAX_BYTES: Final = 4 << 20
_MAX_DEPTH: Final = 64
_MAX_VALUES: Final = 20_000
_BOM: Final = b"\xef\xbb\xbf"


class DocumentError(Exception):
    """The file is no JSON, or more than any pipeline needs; the text says which, beginning with "it"."""


class _Object(dict[str, Any]):
    """An object, and which of its keys stood there more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.repeated = sorted(name for name, count in Counter(names).items() if count > 1)


def load_document(content: bytes) -> Any:
    """Return what the JSON text says; of a key that stands twice the last value, as everywhere.

    Raises:
        DocumentError: It is no JSON in UTF-8, or too large, too deep or of too many values.
    """
    if len(content) > _MAX_BYTES:
        raise DocumentError(f"it is larger than {_MAX_BYTES >> 20} MiB")
    try:
        document = orjson.loads(content.removeprefix(_BOM))
    except orjson.JSONDecodeError as exc:
        raise DocumentError(f"it is no JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}") from exc
    level, count = [document], 1
    for _ in range(_MAX_DEPTH):
        parents = [list(value.values()) if isinstance(value, dict) else value for value in level]
        level = [inner for value in parents if isinstance(value, list) for inner in value]
        count += len(level)
    if level:
        raise DocumentError(f"it is nested deeper than {_MAX_DEPTH} levels")
    if count > _MAX_VALUES:
        raise DocumentError(f"it holds {count} values, more than {_MAX_VALUES}")
    return document


def read_content(file: Path) -> bytes:
    """Return the bytes of a file as far as `load_document` takes any: it may have gigabytes. May raise OSError."""
    with file.open("rb") as source:
        return source.read(_MAX_BYTES + 1)


def repeated_keys(content: bytes) -> list[str]:
    """Return the path of each key that stands twice in its object, of a text that `load_document` took."""
    text = content.removeprefix(_BOM).decode()
    # Numbers are not looked at: Python would take very long for very long ones.
    document = json.loads(text, object_pairs_hook=_Object, parse_int=len, parse_float=len)
    return [write_path(path) for path in _repeated(document, ())]


def write_path(location: tuple[int | str, ...]) -> str:
    """Write a place in the file as a JSON path, such as ``pipeline.branches[0].crop``; long keys are cut."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{printable(step)}" for step in location)
    return text.removeprefix(".") or "the file"


def printable(key: str) -> str:
    """Return a key as it may stand in a message: of bounded length, without control characters."""
    return key[:80] if key.isprintable() else repr(key[:80])


def _repeated(value: Any, path: tuple[int | str, ...]) -> Iterator[tuple[int | str, ...]]:
    if isinstance(value, _Object):
        yield from ((*path, name) for name in value.repeated)
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, one in inner:
        yield from _repeated(one, (*path, step))
