"""The grammar of field templates: text with ``{name}`` or ``{branch.field}`` in it; ``{{`` and ``}}`` are braces.

A name is looked up as a whole in a dictionary: there are no attributes, indices, conversions or format specs, so a
template from outside reaches nothing but the values that a run offers.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from detector_worker.core.exceptions import PipelineError

__all__ = ["CONTEXT_NAMES", "Placeholder", "Template", "parse_template"]

_PLAIN_NAMES: Final = """camera_id display_id record_id session_id timestamp frame_id track_id filename uuid model_id
    bbox.x1 bbox.x2 bbox.y1 bbox.y2 confidence class_name"""
CONTEXT_NAMES: Final = frozenset(_PLAIN_NAMES.split())
"""What every run offers; branches and actions add ``<id>.<field>``."""

_PART: Final = re.compile(r"(?P<text>(?:[^{}]+|\{\{|\}\})+)|\{(?P<name>[A-Za-z_][\w-]*(?:\.[\w-]+)*)\}", re.ASCII)
_MAX_CHARS: Final = 10_000


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
    parts: list[str | Placeholder] = []
    position = 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None or len(text) > _MAX_CHARS:
            fault = f"has a brace at character {position + 1} that begins no plain {{name}}"
            raise PipelineError(
                f"The template {text[:80]!r} {f'is longer than {_MAX_CHARS} characters' if part else fault}",
                where="template",
                mend="Write {name} or {branch.field}; a brace as text is written twice: {{ or }}.",
            )
        literal = part["text"] and part["text"].replace("{{", "{").replace("}}", "}")
        parts.append(literal or Placeholder(part["name"]))
        position = part.end()
    return Template(tuple(parts))
