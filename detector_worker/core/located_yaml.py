"""YAML that knows where everything stands: a small, strict reader for what people write and strangers send. Pure.

It never makes an object of anything, and refuses what such files do not need and what only attacks use: anchors,
aliases, tags, a second document, deep nesting. Plain words mean what they mean in JSON and YAML 1.2: ``no``, ``on``,
``12:30`` and ``2026-01-31`` are texts. A key that stands twice is an error, where YAML would take the last one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

__all__ = ["Node", "Problem", "read_yaml", "shown"]

_LOADER: Final = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_MAX_DEPTH: Final = 8
_MAX_NODES: Final = 400_000
_WORDS: Final = {"": None, "~": None, "null": None, "true": True, "false": False}
_INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_DECIMAL: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})(\.[0-9]{0,20})?([eE][-+]?[0-9]{1,3})?")
_SHOWN: Final = re.compile(r"[\w .#/-]{1,64}")


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the line on which it begins, counted from 1. Its text shows no value: it may hold a password."""

    value: "str | int | float | bool | list[Node] | dict[str, Node] | None" = field(repr=False)
    line: int

    def plain(self) -> Any:
        """Return the value as JSON would have it."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, what, and how to mend it. It quotes no value."""

    path: str
    """Keys with dots between; empty: the whole."""
    line: int | None
    what: str
    mend: str

    def __str__(self) -> str:
        places = (f"line {self.line}" if self.line else "", self.path)
        return f"{', '.join(place for place in places if place) or 'the list'}: {self.what}. {self.mend}"


def read_yaml(text: str) -> tuple[Node | None, list[Problem]]:
    """Read one document.

    Returns:
        Its root, None where it cannot be read or is empty; and what is wrong. With a root, only keys are wrong.
    """
    reader = _Reader(text)
    try:
        return reader.document(), reader.problems
    except _UnreadableError as exc:
        return None, [exc.problem]
    except yaml.MarkedYAMLError as exc:
        # Not the parser's own words: they may quote the text.
        mark = exc.problem_mark or exc.context_mark
        mend = "Look at indentation, colons and quotes there; a text with ': ' or ' #' in it needs quotes."
        return None, [Problem("", mark.line + 1 if mark else None, "This is no YAML", mend)]
    except yaml.YAMLError:  # the reader's: it knows no line
        return None, [Problem("", None, "A control character stands in it", "Remove it.")]


def shown(key: str) -> str:
    """Return a key as it may be shown: what could be an address or a password stays hidden."""
    return key if _SHOWN.fullmatch(key) and "//" not in key else "(hidden)"


class _UnreadableError(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem


class _Reader:
    def __init__(self, text: str) -> None:
        self.problems: list[Problem] = []
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
        self._nodes = 0

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                raise _unreadable(event, "", "A second document begins here", "Keep one; remove the line with ---.")
            if isinstance(event, yaml.NodeEvent):
                root = self._node(event, "", depth=1)
        return root

    def _node(self, event: yaml.Event, path: str, *, depth: int) -> Node:
        self._check(event, path, depth)
        line = _line(event)
        if isinstance(event, yaml.ScalarEvent):
            return Node(_scalar(event), line)
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(self._items(path, depth), line)
        return Node(self._pairs(path, depth), line)

    def _items(self, path: str, depth: int) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, _inside(path, str(len(items))), depth=depth + 1))
        return items

    def _pairs(self, path: str, depth: int) -> dict[str, Node]:
        pairs: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise _unreadable(event, path, "A key that is no text", "Write a name and a colon.")
            self._check(event, path, depth)
            key, line = event.value, _line(event)
            inner = _inside(path, shown(key))
            value = self._node(next(self._events), inner, depth=depth + 1)
            if key in pairs:
                what = f"The key stands twice, first on line {pairs[key].line}"
                self.problems.append(Problem(inner, line, what, "Remove one, or give it another name."))
            # The key's own line: a value may begin on the next one.
            pairs.setdefault(key, Node(value.value, line))
        return pairs

    def _check(self, event: yaml.Event, path: str, depth: int) -> None:
        self._nodes += 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _unreadable(event, path, "Anchors (&) and aliases (*) are not supported", "Write the value itself.")
        if getattr(event, "tag", None) is not None:
            raise _unreadable(event, path, "Tags (!) are not supported", "Remove it, or put the text in quotes.")
        if depth > _MAX_DEPTH:
            raise _unreadable(event, path, "Nested too deeply", f"At most {_MAX_DEPTH} levels.")
        if self._nodes > _MAX_NODES:
            raise _unreadable(event, path, "Too many values", f"At most {_MAX_NODES} in one list.")


def _scalar(event: yaml.ScalarEvent) -> str | int | float | bool | None:
    text: str = event.value
    if event.style:  # in quotes, or a block: a text
        return text
    word = text if text in _WORDS else text.lower()
    if word in _WORDS:
        return _WORDS[word]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _inside(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _unreadable(event: yaml.Event, path: str, what: str, mend: str) -> _UnreadableError:
    return _UnreadableError(Problem(path, _line(event), what, mend))
