"""What a pipeline run wants written, and the door through which it goes.

An entry is *accepted* when it is on disk in the spool; from then on it reaches its sink exactly once in
effect. The door is a Protocol, since a group in a child process hands its entries over a pipe, while a
group in the spool's own process hands them to the spool itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

from detector_worker.core.entities import FieldValue, SessionId, Visit

__all__ = [
    "CreateRecord",
    "Delivery",
    "EnsureTables",
    "Outbox",
    "PatchRecord",
    "PublishMessage",
    "RecordPlace",
    "SavedVisit",
    "SessionEntry",
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

    sink: ClassVar[Sink] = Sink.POSTGRESQL
    tables: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class CreateRecord:
    """Insert one row; ``key_field`` is the column that names it."""

    sink: ClassVar[Sink] = Sink.POSTGRESQL
    table: str
    key_field: str
    fields: Mapping[str, FieldValue]


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """Set columns of the row whose ``key_field`` is ``key_value``."""

    sink: ClassVar[Sink] = Sink.POSTGRESQL
    table: str
    key_field: str
    key_value: FieldValue
    fields: Mapping[str, FieldValue]


@dataclass(frozen=True, slots=True)
class PatchRecord:
    """Set those fields that are columns of the row whose ``key_field`` is ``key_value``; pass over the others."""

    sink: ClassVar[Sink] = Sink.POSTGRESQL
    table: str
    key_field: str
    key_value: FieldValue
    fields: Mapping[str, FieldValue]


@dataclass(frozen=True, slots=True)
class StoreImage:
    """Set a picture under a key, for ``expire_s`` seconds from its delivery."""

    sink: ClassVar[Sink] = Sink.REDIS
    key: str
    image: bytes
    expire_s: int
    captured_at: float | None = None
    """Of the frame that it was cut from: seconds since 1970, UTC."""
    sha256: str | None = None
    """Of the image, hex."""


@dataclass(frozen=True, slots=True)
class PublishMessage:
    """Publish on a channel, unless it is older than ``max_age_s`` by then."""

    sink: ClassVar[Sink] = Sink.REDIS
    channel: str
    message: str
    max_age_s: float


Delivery = EnsureTables | CreateRecord | UpdateRecord | PatchRecord | StoreImage | PublishMessage


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
        return self.delivery.sink

    @property
    def expires_at(self) -> float | None:
        """From when on it must not be delivered any more, seconds since 1970, UTC; None: it never is too late."""
        return self.created_at + self.delivery.max_age_s if isinstance(self.delivery, PublishMessage) else None


@dataclass(frozen=True, slots=True)
class SavedVisit:
    """A live visit as it is kept over a restart: without pictures, times as seconds since 1970, UTC."""

    subscription_id: str
    visit: Visit
    last_seen_at: float
    is_complete: bool = True
    """Its pipeline has run to its end; else it runs again after a restart, once its object is seen again."""


@dataclass(frozen=True, slots=True)
class RecordPlace:
    """Where a visit's row is."""

    table: str
    key_field: str
    key_value: FieldValue


@dataclass(frozen=True, slots=True)
class SessionEntry:
    """What a session is to know of a visit: a patch of the session changes its row too."""

    session_id: SessionId
    camera_id: str
    record_id: str
    place: RecordPlace | None
    """None: no row has been made so far."""


class Outbox(Protocol):
    """Where a group leaves what must not be lost."""

    async def accept(
        self, entries: Sequence[SpoolEntry], *, visit: SavedVisit | None = None, session: SessionEntry | None = None
    ) -> None:
        """Return once all entries, and with them the visit and its session's entry, are on disk in one transaction.

        An entry whose key was accepted before is not taken a second time. The visit travels with its first
        entries so that no crash can leave a record whose visit would be recorded again. The session is opened where
        there is none; what it holds already stays.

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
