"""What is wrong with the settings, in words: name, value, place, remedy. Secrets stay secrets."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from pydantic import BaseModel, SecretStr
from pydantic_core import ErrorDetails

__all__ = ["describe_problems"]

_Path = tuple[str, ...]


class _Source(Protocol):
    def source_of(self, path: Sequence[str]) -> str: ...


def describe_problems(
    model: type[BaseModel],
    errors: Sequence[ErrorDetails],
    layers: Sequence[tuple[_Source, Mapping[str, Any]]],
) -> list[str]:
    """Make one line for each setting at fault; of ``layers``, the sources and what they said, the last wins."""
    lines: dict[_Path, str] = {}
    for error in errors:
        path = tuple(str(part) for part in error["loc"][:2])
        if path in lines:
            continue
        key = ".".join(path)
        source = next((one.source_of(path) for one, values in reversed(layers) if _holds(values, path)), "defaults")
        if error["type"] == "extra_forbidden":  # the value of a misspelt name may be a secret
            lines[path] = f"{key} ({source}): no such setting{_nearest(model, key)}"
        elif len(path) == 1 and _section(model, path[0]):  # and so may be what stands in place of a section
            lines[path] = f"{key} ({source}): is {type(error['input']).__name__}, must be an object of settings"
        else:
            value = "***" if _is_secret(model, path) else _short(error["input"])
            lines[path] = f"{key} = {value} ({source}): {_remedy(error['msg'])}"
    return list(lines.values())


def _holds(values: Mapping[str, Any], path: _Path) -> bool:
    section = values.get(path[0])
    return path[0] in values and (len(path) == 1 or (isinstance(section, Mapping) and path[1] in section))


def _section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    kind = model.model_fields[name].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _is_secret(model: type[BaseModel], path: _Path) -> bool:
    section = _section(model, path[0])
    return section is not None and SecretStr.__name__ in repr(section.model_fields[path[1]])


def _all_keys(model: type[BaseModel]) -> Iterator[str]:
    for name in model.model_fields:
        section = _section(model, name)
        yield from (f"{name}.{key}" for key in section.model_fields) if section else (name,)


def _nearest(model: type[BaseModel], key: str) -> str:
    names: dict[str, str] = {section: section for section in model.model_fields}
    for full in reversed(list(_all_keys(model))):  # of two settings of one name the first section's is meant
        names[full] = names[full.rpartition(".")[2]] = full
    close = difflib.get_close_matches(key, names, n=1)
    return f", did you mean {names[close[0]]}?" if close else ""


def _remedy(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "must be", 1)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
