"""Deliveries and visits as they lie in the spool: JSON for people and later versions, pictures as they are."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Final, get_args

import orjson

from detector_worker.core.entities import BoundingBox, DetectionResult, Visit
from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import Delivery

__all__ = ["decode_delivery", "decode_visit", "encode_delivery", "encode_visit"]

_KINDS: Final[Mapping[str, Callable[..., Delivery]]] = {kind.__name__: kind for kind in get_args(Delivery)}


def encode_delivery(delivery: Delivery) -> tuple[str, bytes, bytes | None]:
    """Return kind, JSON and picture; numbers that are none (NaN, infinities) become null, as JSON has none."""
    values = {field.name: getattr(delivery, field.name) for field in fields(delivery)}
    picture = values.pop("image", None)
    return type(delivery).__name__, _dumps(values), picture


def decode_delivery(kind: str, payload: bytes | dict[str, Any], picture: bytes | None) -> Delivery:
    """Return what `encode_delivery` was given; ServiceError where another version wrote it, or it is damaged.

    ``payload``: the JSON, or what was read from it.
    """
    try:
        values = orjson.loads(payload) if isinstance(payload, bytes) else payload
        if picture is not None:
            values["image"] = picture
        return _KINDS[kind](**values)
    except (ValueError, TypeError, KeyError) as exc:
        raise _unreadable(f"entry of kind {kind!r}", exc) from exc


def encode_visit(visit: Visit) -> bytes:
    """Return a visit as JSON, without its pictures."""
    return _dumps(replace(visit, shots=()))


def decode_visit(payload: bytes) -> Visit:
    """Return what `encode_visit` was given; ServiceError where another version wrote it, or it is damaged."""
    try:
        values = orjson.loads(payload)
        box = BoundingBox(**values.pop("bounding_box"))
        parts = tuple(_detection(part) for part in values.pop("parts"))
        appearance = tuple(values.pop("appearance", ()))
        return Visit(**{**values, "bounding_box": box, "parts": parts, "appearance": appearance, "shots": ()})
    except (ValueError, TypeError, KeyError) as exc:
        raise _unreadable("saved visit", exc) from exc


def _detection(values: dict[str, Any]) -> DetectionResult:
    return DetectionResult(**{**values, "bounding_box": BoundingBox(**values["bounding_box"])})


def _unreadable(what: str, exc: Exception) -> ServiceError:
    mend = "Use the version of the worker that wrote it."
    return ServiceError(f"This {what} cannot be read: {exc}", where="spool", mend=mend)


def _dumps(value: object) -> bytes:
    try:
        return orjson.dumps(value, default=_plain)
    except TypeError as exc:
        raise ServiceError(
            f"An entry cannot be written as JSON: {exc}",
            where="spool",
            mend="Fields hold text, whole numbers of 64 bits, decimals, booleans, null, lists and objects.",
        ) from exc


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is no field value")
