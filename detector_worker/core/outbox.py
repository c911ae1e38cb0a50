"""What a pipeline run wants written, and the door through which it goes.

An entry is *accepted* when it is on disk in the spool; from then on it reaches its sink exactly once in
effect. The door is a Protocol, since a group in a child process hands its entries over a pipe, while a
group in the spool's own process hands them to the spool itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from detector_worker.core.entities import FieldValue, Visit

__all__ = [
    "CreateRecord",
    "Delivery",
    "EnsureTables",
    "Outbox",
    "PublishMessage",
    "SavedVisit",
    "Sink",
    "SpoolEntry",
    "StoreImage",
    "UpdateRecord",
]


class Sink(StrEnum):
    """Where an entry is delivered. Sinks never wait for each other."""

    POSTGRESQL = "postgresql"
    REDIS = "redis"


@dataclass(frozen=True, slots=True)
class EnsureTables:
    """Add missing tables and columns; never drops or narrows. ``{table: {column: declaration}}``."""

    tables: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class CreateRecord:
    """Insert one row; ``key_field`` is the column that names it."""

    table: str
    key_field: str
    fields: Mapping[str, FieldValue]


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """Set columns of the row whose ``key_field`` is ``key_value``."""

    table: str
    key_field: str
    key_value: FieldValue
    fields: Mapping[str, FieldValue]


@dataclass(frozen=True, slots=True)
class StoreImage:
    """Set a picture under a key, for ``expire_s`` seconds from its delivery."""

    key: str
    image: bytes
    expire_s: int


@dataclass(frozen=True, slots=True)
class PublishMessage:
    """Publish on a channel, unless it is older than ``max_age_s`` by then."""

    channel: str
    message: str
    max_age_s: float


Delivery = EnsureTables | CreateRecord | UpdateRecord | StoreImage | PublishMessage


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """One thing to deliver."""

    key: str
    """Idempotency key, made before acceptance, such as ``<record_id>:<action id>``."""
    visit_id: str
    """The record id: entries of one visit are delivered in their order within a sink."""
    created_at: float
    """Seconds since 1970, UTC."""
    delivery: Delivery

    @property
    def sink(self) -> Sink:
        """Where it goes."""
        match self.delivery:
            case StoreImage() | PublishMessage():
                return Sink.REDIS
            case _:
                return Sink.POSTGRESQL


@dataclass(frozen=True, slots=True)
class SavedVisit:
    """A live visit as it is kept over a restart: without pictures, times as seconds since 1970, UTC."""

    subscription_id: str
    visit: Visit
    last_seen_at: float


class Outbox(Protocol):
    """Where a group leaves what must not be lost."""

    async def accept(self, entries: Sequence[SpoolEntry], *, visit: SavedVisit | None = None) -> None:
        """Return once all entries, and the visit with them, are on disk in one transaction.

        An entry whose key was accepted before is not taken a second time. The visit travels with its first
        entries so that no crash can leave a record whose visit would be recorded again.

        Raises:
            ServiceError: The spool refused (full, or its disk).
        """
        ...

    async def save_visit(self, visit: SavedVisit) -> None:
        """Refresh a live visit that was kept before; one that was not stays unknown.

        A visit comes to disk only through `accept`, together with its first entries: kept before them, a crash in
        between would leave a visit without a record.
        """
        ...

    async def forget_visit(self, record_id: str) -> None:
        """Forget a visit that has ended."""
        ...
