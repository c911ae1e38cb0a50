"""A camera's keys in a file, and the subscribe message that they make. Pure.

The keys are the fields of the message, its options beside them: whatever the protocol learns, the file understands,
within the same limits. Only ``archive`` (there ``modelUrl``) and ``crop`` (four numbers in one) have names of their
own.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from detector_worker.core.exceptions import MessageProcessingError
from detector_worker.core.wire_messages import SubscribePayload, SubscriptionOptionsPayload

__all__ = ["CAMERA_KEYS", "NAME", "SITE_DISPLAY_ID", "CameraMessage", "Fault", "key_of"]

Order = TypeVar("Order")

SITE_DISPLAY_ID: Final = "site"
"""The display of all cameras that no client has asked for."""
NAME: Final = "subscriptionIdentifier"
_CROP: Final = ("cropX1", "cropY1", "cropX2", "cropY2")
_OWN_NAMES: Final = {"modelUrl": "archive"} | dict.fromkeys(_CROP, "crop")
_OF_A_CLIENT: Final = frozenset({NAME, "options", "liveDetections", "resumeFrom"})
_STAND_INS: Final = {
    NAME: f"{SITE_DISPLAY_ID};camera",
    "modelUrl": "/archive.mpta",
    "rtspUrl": "rtsp://camera/",
    "snapshotUrl": "http://camera/",
}
"""Right values for what must not be missing, so that the rest can be checked."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a camera; it quotes no value."""

    key: str
    """`NAME`: the camera's own name."""
    indices: tuple[int | str, ...]
    """Where in the value."""
    what: str
    mend: str


class CameraMessage:
    """One camera as a message. What is wrong can be left out, so that the rest is checked too."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        """Put each value where the message has it; what is null is not said."""
        said = {key: value for key, value in values.items() if value is not None}
        self._fields: dict[str, Any] = {NAME: f"{SITE_DISPLAY_ID};{name}"}
        self._fields |= zip(_CROP, said.pop("crop", ()), strict=False)
        if "archive" in said:
            self._fields["modelUrl"] = said.pop("archive")
        self._options = {key: said.pop(key) for key in _OPTIONS & said.keys()}
        self._fields |= said

    def leave_out(self, keys: Iterable[str]) -> None:
        """Check the message without these from now on, as if they were right."""
        for key in keys:
            for name in [wire for wire, own in _OWN_NAMES.items() if own == key] or [key]:
                self._options.pop(name, None)
                self._fields.pop(name, None)
                if name in _STAND_INS:
                    self._fields[name] = _STAND_INS[name]

    def order(self, make_order: Callable[[SubscribePayload], Order]) -> tuple[Order | None, tuple[Fault, ...]]:
        """Return what ``make_order`` makes of the message, or None and some of what is wrong."""
        try:
            return make_order(SubscribePayload.model_validate({**self._fields, "options": self._options})), ()
        except ValidationError as exc:
            errors = exc.errors(include_url=False, include_input=False, include_context=False)
            return None, tuple(_in_words(error) for error in errors)
        except MessageProcessingError as exc:
            return None, (Fault(key_of(exc.field or NAME), (), exc.what, exc.mend),)


def key_of(wire_name: str) -> str:
    """Return the key that a field of the message has in a file."""
    return _OWN_NAMES.get(wire_name, wire_name)


def _in_words(error: ErrorDetails) -> Fault:
    wire_name, *indices = error["loc"][1:] if error["loc"][0] == "options" else error["loc"]
    what, mend = error["msg"].replace("Input should", "This should").removeprefix("Value error, "), "Correct it."
    if wire_name == NAME:
        what, mend = "This cannot be a camera's name", "Use a shorter one, without ; and control characters."
    elif error["type"] == "missing":
        what, mend = "This is missing", "Write it here, or at the top for all cameras."
    elif error["type"] == "string_type":
        mend = "Put it in quotes."
    elif error["type"] == "string_pattern_mismatch":
        what, mend = "A control character stands in it", "Remove it."
    return Fault(key_of(str(wire_name)), tuple(indices), what, mend)


def _names(model: type[SubscribePayload | SubscriptionOptionsPayload]) -> list[str]:
    """Return the wire names of those fields that this version supports."""
    fields = model.model_fields.values()
    return [str(one.validation_alias) for one in fields if one.annotation is not NoneType]


_OPTIONS: Final = frozenset(_names(SubscriptionOptionsPayload))
CAMERA_KEYS: Final = tuple(
    dict.fromkeys(key_of(name) for name in _names(SubscribePayload) if name not in _OF_A_CLIENT)
    | dict.fromkeys(_names(SubscriptionOptionsPayload))
)
"""What may be said of a camera in a file."""
