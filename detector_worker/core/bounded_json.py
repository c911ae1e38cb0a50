"""How much JSON of a client's own making is taken."""

from typing import Any, Final

import orjson

__all__ = ["bounded_object"]

_MAX_DEPTH: Final = 8
_MAX_BYTES: Final = 16 << 10


def bounded_object(value: dict[str, Any]) -> dict[str, Any]:
    """Return an object that was read from JSON; ValueError where it is too deep, too large, or holds a NUL."""
    if not _fits(value, _MAX_DEPTH):
        raise ValueError(f"should be nested {_MAX_DEPTH} levels deep at most, and without the character NUL")
    if len(orjson.dumps(value)) > _MAX_BYTES:
        raise ValueError(f"should have at most {_MAX_BYTES} bytes")
    return value


def _fits(value: Any, levels: int) -> bool:
    """True if nothing in it is nested deeper, and no text in it holds what PostgreSQL cannot keep."""
    if isinstance(value, str):
        return "\0" not in value
    if not isinstance(value, dict | list):
        return True
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    return levels > 0 and all(_fits(part, levels - 1) for part in parts)
