"""Visits as a worker would record them, at an even rate, and the ledger of what was accepted."""

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

from support.spooling import creation, image, publication, update

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import Sink, SpoolEntry
from detector_worker.storage.spool.spool import Spool

__all__ = ["CHANNEL", "STAGES", "TABLES", "Ledger", "VisitLoad", "picture"]

CHANNEL: Final = "visits"
STAGES: Final = (0, 1, 2)
"""What the column ``stage`` of each row is in turn: at its creation and after each update."""
TABLES: Final = (
    # Without a unique key: a row that was written twice shows. The log has every change in the order of its making.
    "CREATE TABLE visits (record_id uuid, stage int)",
    "CREATE INDEX ON visits (record_id)",
    "CREATE TABLE changes (number bigserial, record_id uuid, stage int)",
    """CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO changes (record_id, stage) VALUES (NEW.record_id, NEW.stage); RETURN NULL; END'""",
    "CREATE TRIGGER note AFTER INSERT OR UPDATE ON visits FOR EACH ROW EXECUTE FUNCTION note_change()",
)
_PICTURE_BYTES: Final = 10_000
_EXPIRE_S: Final = 3_600


@dataclass
class Ledger:
    """What was accepted."""

    created_s: dict[str, float] = field(default_factory=dict)
    """Visits, and when their creation was accepted, monotonic seconds."""
    updates: Counter[str] = field(default_factory=Counter)
    """Of each visit."""
    pictures: set[str] = field(default_factory=set)
    """Their keys in Redis."""

    def note(self, entry_key: str) -> None:
        """An entry was accepted, just now."""
        record_id, _, name = entry_key.partition(":")
        if name == "create":
            self.created_s[record_id] = time.monotonic()
        elif name.startswith("update"):
            self.updates[record_id] += 1
        elif name.startswith("image "):
            self.pictures.add(name.removeprefix("image "))


@dataclass
class VisitLoad:
    """Each visit: a row, a picture and a message; another picture and an update; later another update."""

    spool: Spool
    visits_per_s: float
    note: Callable[[str], object]
    """Told the key of each entry once it is accepted."""
    later_s: float = 1.0
    max_age_s: float = 30.0
    """Of the messages."""
    accepted: Counter[Sink] = field(default_factory=Counter)
    """Entries."""
    refused: list[ServiceError] = field(default_factory=list)

    async def run(self, stopping: asyncio.Event) -> None:
        """Begin visits until told to stop, and finish those that were begun."""
        began_s, begun = time.monotonic(), 0
        async with asyncio.TaskGroup() as visits:
            while not stopping.is_set():
                visits.create_task(self._visit(str(uuid4())))
                begun += 1
                await asyncio.sleep(began_s + begun / self.visits_per_s - time.monotonic())

    async def _visit(self, record_id: str) -> None:
        try:
            told = publication(record_id, channel=CHANNEL, message=record_id, max_age_s=self.max_age_s)
            await self._accept(creation(record_id, table="visits", stage=STAGES[0]), _picture(record_id, 1), told)
            await self._accept(_picture(record_id, 2), _update(record_id, 1))
            await asyncio.sleep(self.later_s)
            await self._accept(_update(record_id, 2))
        except ServiceError as exc:
            self.refused.append(exc)

    async def _accept(self, *entries: SpoolEntry) -> None:
        await self.spool.accept(entries)
        for entry in entries:
            self.accepted[entry.sink] += 1
            self.note(entry.key)


def picture(key: str) -> bytes:
    """Return the picture that belongs under a key; no two are alike, and none is kept in memory."""
    return hashlib.shake_128(key.encode()).digest(_PICTURE_BYTES)


def _picture(record_id: str, number: int) -> SpoolEntry:
    key = f"{record_id}:{number}"
    return image(record_id, key=key, content=picture(key), expire_s=_EXPIRE_S)


def _update(record_id: str, number: int) -> SpoolEntry:
    return update(record_id, table="visits", name=f"update {number}", stage=STAGES[number])
