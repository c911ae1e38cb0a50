"""The grammar of field templates, and the check that every name in a pipeline can have a value.

A template is text with ``{name}`` or ``{branch.field}`` in it; ``{{`` and ``}}`` are braces. A name is looked up
as a whole in a dictionary and nothing else: no attributes, indices, conversions or format specs exist, so a
template from outside reaches nothing but the values that a run offers. What the values are is the business of
`pipeline.field_mapper`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final

from detector_worker.core.exceptions import PipelineError
from detector_worker.models.pipeline_config import (
    ActionConfig,
    PipelineConfig,
    PostgresqlCreate,
    PostgresqlUpdate,
    PublishMessageAction,
    RedisSaveImage,
)

__all__ = ["CONTEXT_NAMES", "Placeholder", "Template", "parse_template", "template_problems"]

CONTEXT_NAMES: Final = frozenset(
    {
        "bbox.x1",
        "bbox.x2",
        "bbox.y1",
        "bbox.y2",
        "camera_id",
        "class_name",
        "confidence",
        "display_id",
        "filename",
        "frame_id",
        "model_id",
        "record_id",
        "session_id",
        "timestamp",
        "track_id",
        "uuid",
    }
)
"""What every run offers; branches and actions add ``<id>.<field>``."""

_NAME: Final = re.compile(r"[A-Za-z_][\w-]*(?:\.[\w-]+)*", re.ASCII)
_MAX_TEMPLATE_CHARS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Placeholder:
    """One name to look up, dots included."""

    name: str


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: literal text and placeholders in their order."""

    parts: tuple[str | Placeholder, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that is looked up, in order."""
        return tuple(part.name for part in self.parts if isinstance(part, Placeholder))

    @property
    def sole_name(self) -> str | None:
        """The name, where the template is exactly one placeholder: then the value keeps its type."""
        return self.parts[0].name if len(self.parts) == 1 and isinstance(self.parts[0], Placeholder) else None


@lru_cache(maxsize=4096)
def parse_template(text: str) -> Template:
    """Parse a template.

    Raises:
        PipelineError: A brace that stands alone, or a placeholder that is no plain name.
    """
    if len(text) > _MAX_TEMPLATE_CHARS:
        raise _refusal(text, f"is longer than {_MAX_TEMPLATE_CHARS} characters")
    parts: list[str | Placeholder] = []
    literal: list[str] = []
    position = 0
    while position < len(text):
        char = text[position]
        if char not in "{}":
            literal.append(char)
            position += 1
        elif text.startswith(char * 2, position):
            literal.append(char)
            position += 2
        elif char == "{" and (end := text.find("}", position)) > 0 and _NAME.fullmatch(text, position + 1, end):
            if literal:
                parts.append("".join(literal))
                literal.clear()
            parts.append(Placeholder(text[position + 1 : end]))
            position = end + 1
        else:
            raise _refusal(text, f"has a brace at character {position + 1} that begins no plain {{name}}")
    if literal:
        parts.append("".join(literal))
    return Template(tuple(parts))


def template_problems(config: PipelineConfig) -> list[tuple[str, str]]:
    """Find templates that cannot be parsed and names that can never have a value.

    An action of ``actions`` may name the context and earlier actions; any other may name every branch and action
    as well.

    Returns:
        Pairs of JSON path and what is wrong there.
    """
    problems: list[tuple[str, str]] = []
    known = set(CONTEXT_NAMES)
    for index, action in enumerate(config.actions):
        problems += _action_problems(f"pipeline.actions[{index}]", action, known)
        known |= _result_names(action)
    for action in config.all_actions():
        known |= _result_names(action)
    for branch in config.all_branches():
        known |= {f"{branch.model_id}.{branch.result_field}", f"{branch.model_id}.confidence"}
    for path, action in _later_actions(config):
        problems += _action_problems(path, action, known)
    return problems


def _refusal(text: str, why: str) -> PipelineError:
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    return PipelineError(
        f"The template {shown!r} {why}",
        where="template",
        mend="Write {name} or {branch.field}; a brace as text is written twice: {{ or }}.",
    )


def _result_names(action: ActionConfig) -> set[str]:
    match action:
        case RedisSaveImage():
            return {f"{action.result_name}.key"}
        case PostgresqlCreate():
            return {f"{action.result_name}.record_id", f"{action.result_name}.key"}
        case _:
            return set()


def _later_actions(config: PipelineConfig) -> Iterator[tuple[str, ActionConfig]]:
    def walk(path: str, branches: tuple[Any, ...]) -> Iterator[tuple[str, ActionConfig]]:
        for index, branch in enumerate(branches):
            here = f"{path}.branches[{index}]"
            yield from ((f"{here}.actions[{number}]", action) for number, action in enumerate(branch.actions))
            yield from walk(here, branch.branches)

    yield from walk("pipeline", config.branches)
    yield from ((f"pipeline.parallelActions[{index}]", action) for index, action in enumerate(config.parallel_actions))


def _action_problems(path: str, action: ActionConfig, known: set[str]) -> Iterator[tuple[str, str]]:
    for where, text in _templates(path, action):
        try:
            names = parse_template(text).names
        except PipelineError as exc:
            yield where, exc.what
            continue
        yield from ((where, _unknown(name, known)) for name in names if name not in known)
    if action.when is not None and action.when.field not in known:
        yield f"{path}.when.field", _unknown(action.when.field, known)


def _unknown(name: str, known: set[str]) -> str:
    nearest = get_close_matches(name, sorted(known), n=1)
    hint = f"; did you mean {{{nearest[0]}}}?" if nearest else ""
    return f"{{{name[:80]}}} can never have a value here{hint}"


def _templates(path: str, action: ActionConfig) -> Iterator[tuple[str, str]]:
    match action:
        case PostgresqlCreate():
            yield from _texts(f"{path}.fields", action.fields)
        case PostgresqlUpdate():
            yield f"{path}.key_value", action.key_value
            yield from _texts(f"{path}.fields", action.fields)
        case RedisSaveImage():
            yield f"{path}.key", action.key
        case PublishMessageAction():
            yield f"{path}.channel", action.channel
            yield from _texts(f"{path}.message", action.message)


def _texts(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(f"{path}.{key}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(f"{path}[{index}]", inner)
