"""The cameras of a site as one writes them down: ``cameras.yaml``, YAML or JSON. Pure.

What is wrong is told all at once, each with its line and never with a value: it may hold a password.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

import yaml

from detector_worker.core.camera_message import CAMERA_KEYS, NAME, CameraMessage, Fault, key_of
from detector_worker.core.located_yaml import Node, Problem, read_yaml, shown
from detector_worker.core.wire_messages import SubscribePayload

__all__ = [
    "MAX_CAMERAS",
    "MAX_LIST_BYTES",
    "CameraList",
    "ListedCamera",
    "Problem",
    "read_camera_list",
    "write_camera_list",
]

Order = TypeVar("Order")
_Place = tuple[str, Node]
"""The path to a key, and what stands there."""

MAX_LIST_BYTES: Final = 1024 * 1024
MAX_CAMERAS: Final = 1000
_DEFAULT_KEYS: Final = tuple(key for key in CAMERA_KEYS if not key.endswith("Url"))
"""An address is of one camera alone."""
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class ListedCamera(Generic[Order]):
    """One camera that can be subscribed to."""

    camera_id: str
    order: Order = field(repr=False)
    """What ``make_order`` made of it."""
    written: Mapping[str, Any] = field(repr=False)
    """Its keys and those of the top, as plain values, the archive with its whole path: for `write_camera_list`."""


@dataclass(frozen=True, slots=True)
class CameraList(Generic[Order]):
    """What could be read; where there are problems, ``cameras`` are those in which nothing is wrong."""

    cameras: tuple[ListedCamera[Order], ...]
    problems: tuple[Problem, ...]
    """By line."""


def read_camera_list(
    content: bytes,
    *,
    folder: Path,
    make_order: Callable[[SubscribePayload], Order],
    variables: Mapping[str, str] | None = None,
) -> CameraList[Order]:
    """Read a list and check all of it. The largest takes seconds: use a thread.

    Args:
        content: YAML or JSON, UTF-8.
        folder: Relative paths of archives begin there.
        make_order: Makes of a checked message what is to be done, or raises a MessageProcessingError with ``field``.
        variables: What ``${NAME}`` in an address stands for, not yet percent-encoded. None: it may not be used,
            since a stranger who writes a list could have any of them sent to a host of his own.
    """
    reader = _ListReader(folder, make_order, variables)
    cameras = tuple(reader.cameras(content))
    return CameraList(cameras, tuple(sorted(reader.problems.values(), key=lambda one: one.line or 0)))


def write_camera_list(cameras: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Write what cameras were ``written`` as, by camera id, such that `read_camera_list` reads the same."""
    content = {"cameras": {name: dict(written) for name, written in cameras.items()}}
    flow_style = None  # lists of numbers on one line
    text: bytes = yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, default_flow_style=flow_style, width=10_000, encoding="utf-8"
    )
    return text


class _ListReader(Generic[Order]):
    def __init__(
        self, folder: Path, make_order: Callable[[SubscribePayload], Order], variables: Mapping[str, str] | None
    ) -> None:
        self._folder, self._make_order, self._variables = folder, make_order, variables
        self.problems: dict[tuple[str, int | None, str], Problem] = {}
        """A default that is wrong is wrong once, not for each camera."""

    def cameras(self, content: bytes) -> Iterator[ListedCamera[Order]]:
        """Yield the cameras in which nothing is wrong."""
        root = self._root(content)
        if root is None:
            return
        self._check_keys(root, "", ("cameras", *_DEFAULT_KEYS))
        defaults = {key: (key, node) for key, node in root.items() if key in _DEFAULT_KEYS}
        cameras = root.get("cameras")
        if cameras is None or not isinstance(cameras.value, dict):
            mend = "Write cameras: and below it a name for each."
            self._tell("cameras", cameras, "No cameras are listed", mend)
        elif len(cameras.value) > MAX_CAMERAS:
            self._tell("cameras", cameras, f"More than {MAX_CAMERAS} cameras", "Spread them over more workers.")
        else:
            for name, node in cameras.value.items():
                camera = self._camera(name, (f"cameras.{shown(name)}", node), defaults)
                if camera is not None:
                    yield camera

    def _root(self, content: bytes) -> dict[str, Node] | None:
        if len(content) > MAX_LIST_BYTES:
            self._tell("", None, "The list is too large", f"At most {MAX_LIST_BYTES} bytes.")
            return None
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            self._tell("", None, "The list is no UTF-8 text", "Save it as UTF-8.")
            return None
        root, problems = read_yaml(text)
        for problem in problems:
            self._tell(problem.path, problem, problem.what, problem.mend)
        if root is not None and isinstance(root.value, dict):
            return root.value
        if not problems:
            self._tell("", root, "The list is empty, or no mapping", "Begin as cameras.example.yaml does.")
        return None

    def _camera(self, name: str, place: _Place, defaults: Mapping[str, _Place]) -> ListedCamera[Order] | None:
        path, node = place
        if not isinstance(node.value, dict):
            self._tell(path, node, "This is no camera", "Write its keys below its name, such as rtspUrl: rtsp://...")
            return None
        sound = self._check_keys(node.value, path, CAMERA_KEYS)
        own = {key: (f"{path}.{key}", inner) for key, inner in node.value.items() if key in CAMERA_KEYS}
        places = {**defaults, **own}
        values: dict[str, Any] = {}
        told: set[str] = set()
        for key, (key_path, inner) in places.items():
            try:
                values[key] = self._value(key, inner.plain())
            except _ValueFaultError as exc:
                self._tell(key_path, inner, exc.what, exc.mend)
                told.add(key)
        order = self._order(CameraMessage(name, values), told, {NAME: place, **places})
        return ListedCamera(name, order, values) if order is not None and sound else None

    def _check_keys(self, pairs: Mapping[str, Node], path: str, known: Sequence[str]) -> bool:
        unknown = [key for key in pairs if key not in known]
        for key in unknown:
            near = next(iter(difflib.get_close_matches(key_of(key), known, n=1)), None)
            mend = f"Did you mean {near}?" if near else f"Known here: {', '.join(known)}."
            self._tell(f"{path}.{shown(key)}".lstrip("."), pairs[key], "There is no such key", mend)
        return not unknown

    def _value(self, key: str, value: Any) -> Any:
        """Return what a key says, with its variables filled in and the archive's whole path."""
        if key == "crop" and value is not None and (not isinstance(value, list) or len(value) != 4):
            raise _ValueFaultError("This is no region", "Write [x1, y1, x2, y2], pixels of the full frame.")
        if not isinstance(value, str):
            return value
        if key.endswith("Url") or (key == "archive" and "://" in value):
            return self._filled(value)
        return str(self._folder / value) if key == "archive" and value else value

    def _filled(self, address: str) -> str:
        names = _VARIABLE.findall(address)
        if "${" in _VARIABLE.sub("", address):
            raise _ValueFaultError("A variable cannot be read", "Write ${NAME}: letters, digits and _.")
        if names and self._variables is None:
            what = "Variables may only be used in a file that is given with --cameras"
            raise _ValueFaultError(what, "Write the password itself; a $ as %24.")
        known = self._variables or {}
        missing = [name for name in names if not known.get(name)]
        if missing:
            what = f"The environment holds no {', no '.join(missing)}"
            raise _ValueFaultError(what, "Set it where the worker is started, or in .env.")
        return _VARIABLE.sub(lambda match: quote(known[match[1]], safe=""), address)

    def _order(self, message: CameraMessage, told: set[str], places: Mapping[str, _Place]) -> Order | None:
        """Make the order. What is wrong is told and left out, and the rest checked again."""
        wrong = bool(told)
        while True:
            message.leave_out(told)
            order, faults = message.order(self._make_order)
            if not faults:
                return None if wrong else order
            wrong = True
            fresh = {fault.key: fault for fault in reversed(faults) if fault.key not in told}
            if not fresh:
                return None
            for fault in fresh.values():
                self._tell_fault(fault, places)
            told |= fresh.keys()

    def _tell_fault(self, fault: Fault, places: Mapping[str, _Place]) -> None:
        camera_path, camera = places[NAME]
        path, node = places.get(fault.key, (f"{camera_path}.{fault.key}", camera))
        for index in fault.indices:
            if not isinstance(node.value, list) or not isinstance(index, int) or index >= len(node.value):
                break
            path, node = f"{path}.{index}", node.value[index]
        self._tell(path, node, fault.what, fault.mend)

    def _tell(self, path: str, at: Node | Problem | None, what: str, mend: str) -> None:
        line = at.line if at else None
        self.problems.setdefault((path, line, what), Problem(path, line, what, mend))


class _ValueFaultError(Exception):
    def __init__(self, what: str, mend: str) -> None:
        super().__init__()
        self.what, self.mend = what, mend


class _Dumper(yaml.SafeDumper):
    """Texts always in quotes: readers differ about which plain words are texts."""


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
