"""Entries, clocks and watchers for tests of the spool and what empties it."""

import time
from dataclasses import dataclass, field

from detector_worker.core.entities import BoundingBox, DetectionResult, FieldValue, Visit
from detector_worker.core.outbox import CreateRecord, Delivery, PublishMessage, SpoolEntry, StoreImage, UpdateRecord
from detector_worker.storage.drainers import SinkState

__all__ = ["StateLog", "creation", "image", "publication", "update", "visit"]


@dataclass
class StateLog:
    """Keeps what drainers tell."""

    states: list[SinkState] = field(default_factory=list)

    def __call__(self, state: SinkState) -> None:
        self.states.append(state)


def _entry(record_id: str, name: str, delivery: Delivery, created_at: float | None) -> SpoolEntry:
    return SpoolEntry(f"{record_id}:{name}", record_id, time.time() if created_at is None else created_at, delivery)


def creation(record_id: str, *, table: str = "cars", name: str = "create", **fields: FieldValue) -> SpoolEntry:
    return _entry(record_id, name, CreateRecord(table, "record_id", {"record_id": record_id, **fields}), None)


def update(record_id: str, *, table: str = "cars", name: str = "update", **fields: FieldValue) -> SpoolEntry:
    return _entry(record_id, name, UpdateRecord(table, "record_id", record_id, fields), None)


def image(record_id: str, *, key: str, content: bytes = b"\xff\xd8", expire_s: int = 60) -> SpoolEntry:
    return _entry(record_id, f"image {key}", StoreImage(key, content, expire_s), None)


def publication(
    record_id: str, *, channel: str, message: str, max_age_s: float = 30, created_at: float | None = None
) -> SpoolEntry:
    return _entry(record_id, f"publish {message}", PublishMessage(channel, message, max_age_s), created_at)


def visit(record_id: str, *, track_id: int = 7) -> Visit:
    part = DetectionResult("wheel", 0.5, BoundingBox(3, 4, 5, 6), None, 12.5)
    return Visit(
        record_id=record_id,
        camera_id="gate",
        track_id=track_id,
        class_name="car",
        confidence=0.75,
        bounding_box=BoundingBox(1, 2, 30, 40),
        first_s=10.5,
        last_s=11.5,
        captured_at=1_700_000_000.25,
        frame_id=3,
        parts=(part,),
    )
