"""Deliveries and visits as they lie in the spool: JSON for people and later versions, pictures as they are."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, assert_never

import orjson

from detector_worker.core.entities import BoundingBox, DetectionResult, Visit
from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import (
    CreateRecord,
    Delivery,
    EnsureTables,
    PublishMessage,
    SavedVisit,
    StoreImage,
    UpdateRecord,
)

__all__ = ["EncodedDelivery", "decode_delivery", "decode_visit", "encode_delivery", "encode_visit"]

_KINDS: Final[Mapping[str, type[EnsureTables | CreateRecord | UpdateRecord | PublishMessage]]] = {
    "ensure_tables": EnsureTables,
    "create_record": CreateRecord,
    "update_record": UpdateRecord,
    "publish_message": PublishMessage,
}


@dataclass(frozen=True, slots=True)
class EncodedDelivery:
    """A delivery as columns of the spool."""

    kind: str
    payload: bytes
    """JSON."""
    picture: bytes | None = None

    @property
    def size_bytes(self) -> int:
        """What it adds to the backlog."""
        return len(self.payload) + len(self.picture or b"")


def encode_delivery(delivery: Delivery) -> EncodedDelivery:
    """Turn a delivery into columns; numbers that are none (NaN, infinities) become null, as JSON has none.

    Raises:
        ServiceError: A value that JSON in UTF-8 cannot hold.
    """
    match delivery:
        case StoreImage():
            return EncodedDelivery(
                "store_image", _dumps({"key": delivery.key, "expire_s": delivery.expire_s}), delivery.image
            )
        case EnsureTables():
            return EncodedDelivery("ensure_tables", _dumps(delivery))
        case CreateRecord():
            return EncodedDelivery("create_record", _dumps(delivery))
        case UpdateRecord():
            return EncodedDelivery("update_record", _dumps(delivery))
        case PublishMessage():
            return EncodedDelivery("publish_message", _dumps(delivery))
        case _:
            assert_never(delivery)


def decode_delivery(encoded: EncodedDelivery) -> Delivery:
    """Turn columns back into the delivery.

    Raises:
        ServiceError: Another version wrote it, or the file is damaged.
    """
    try:
        values = orjson.loads(encoded.payload)
        if encoded.kind == "store_image":
            return StoreImage(image=encoded.picture or b"", **values)
        return _KINDS[encoded.kind](**values)
    except (ValueError, TypeError, KeyError) as exc:
        raise ServiceError(
            f"This entry of kind {encoded.kind!r} cannot be read: {exc}",
            where="spool",
            mend="Deliver it with the version of the worker that wrote it.",
        ) from exc


def encode_visit(visit: Visit) -> bytes:
    """Turn a visit into JSON, without its pictures.

    Raises:
        ServiceError: A value that JSON in UTF-8 cannot hold.
    """
    return _dumps(replace(visit, shots=()))


def decode_visit(subscription_id: str, payload: bytes, last_seen_at: float) -> SavedVisit:
    """Turn JSON back into a saved visit.

    Raises:
        ServiceError: Another version wrote it, or the file is damaged.
    """
    try:
        values = orjson.loads(payload)
        box, parts = BoundingBox(**values.pop("bounding_box")), tuple(_detection(part) for part in values.pop("parts"))
        visit = Visit(**{**values, "bounding_box": box, "parts": parts, "shots": ()})
    except (ValueError, TypeError, KeyError) as exc:
        raise ServiceError(
            f"This saved visit cannot be read: {exc}",
            where=f"spool, subscription {subscription_id}",
            mend="It is passed over; its object may be recorded again.",
        ) from exc
    return SavedVisit(subscription_id, visit, last_seen_at)


def _detection(values: dict[str, Any]) -> DetectionResult:
    return DetectionResult(**{**values, "bounding_box": BoundingBox(**values["bounding_box"])})


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
