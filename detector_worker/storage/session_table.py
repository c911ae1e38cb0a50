"""Sessions and the displays that are in them, as they lie in the spool's file."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import orjson

from detector_worker.core.entities import FieldValue, SessionId
from detector_worker.core.outbox import RecordPlace, SessionEntry

__all__ = ["Session", "SessionRecord", "end_display", "find_outlived", "load", "load_displays", "set_display", "store"]

_MAX_RECORDS: Final = 16
_STORE: Final = """
INSERT INTO sessions (session_id, payload, changed_at) VALUES (?, ?, ?)
ON CONFLICT (session_id) DO UPDATE SET payload = excluded.payload, changed_at = excluded.changed_at
"""
_SET_DISPLAY: Final = """
INSERT INTO displays (display_id, session_id) VALUES (?, ?)
ON CONFLICT (display_id) DO UPDATE SET session_id = excluded.session_id
"""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A visit that was recorded in a session."""

    record_id: str
    camera_id: str
    place: RecordPlace | None
    """None: it has no row."""
    status: str | None = None
    """Of its pipeline's run, once that has ended."""


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of a session."""

    session_id: SessionId
    """As a display or a record told it last."""
    changed_at: float
    """Or used: seconds since 1970, UTC."""
    data: Mapping[str, FieldValue]
    """What patches have made of it."""
    records: tuple[SessionRecord, ...] = ()
    """Oldest first; the newest 16 of them."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return what `dataclasses.asdict` was given; ValueError, TypeError or KeyError where it was something else."""
        records = []
        for record in values["records"]:
            place = None if record["place"] is None else RecordPlace(**record["place"])
            records.append(SessionRecord(**{**record, "place": place}))
        return cls(**{**values, "records": tuple(records)})

    @property
    def key(self) -> str:
        """The session's name: ids that read alike as text are one."""
        return str(self.session_id)

    def patched(self, data: Mapping[str, FieldValue], now: float) -> Self:
        """Merge data, one level deep; None deletes a key."""
        merged = {key: value for key, value in {**self.data, **data}.items() if value is not None}
        return replace(self, data=merged, changed_at=now)

    def with_record(self, entry: SessionEntry, now: float) -> Self:
        """Add a visit, or its place where only that was unknown."""
        known = next((record for record in self.records if record.record_id == entry.record_id), None)
        if known is None:
            added = (*self.records, SessionRecord(entry.record_id, entry.camera_id, entry.place))
            return replace(self, records=added[-_MAX_RECORDS:], changed_at=now)
        placed = replace(known, place=known.place or entry.place)
        return replace(self, records=tuple(placed if one is known else one for one in self.records), changed_at=now)

    def with_status(self, record_id: str, status: str, now: float) -> Self:
        """Note what a visit's run came to."""
        records = (replace(one, status=status) if one.record_id == record_id else one for one in self.records)
        return replace(self, records=tuple(records), changed_at=now)


def load(connection: sqlite3.Connection, key: str) -> Session | None:
    """Return a session; None where there is none, or none that can be read."""
    row = connection.execute("SELECT payload FROM sessions WHERE session_id = ?", (key,)).fetchone()
    try:
        return None if row is None else Session.from_values(orjson.loads(row[0]))
    except (ValueError, TypeError, KeyError):  # another version's, or damaged
        return None


def store(connection: sqlite3.Connection, session: Session) -> None:
    """Keep a session, in place of an older one of this name."""
    connection.execute(_STORE, (session.key, orjson.dumps(session, default=dict), session.changed_at))


def load_displays(connection: sqlite3.Connection) -> dict[str, SessionId]:
    """Return the session of each display that is in one."""
    return dict(connection.execute("SELECT display_id, session_id FROM displays"))


def set_display(connection: sqlite3.Connection, display_id: str, session_id: SessionId) -> None:
    """Put a display into a session."""
    connection.execute(_SET_DISPLAY, (display_id, session_id))


def end_display(connection: sqlite3.Connection, display_id: str) -> None:
    """Take a display out of its session."""
    connection.execute("DELETE FROM displays WHERE display_id = ?", (display_id,))


def find_outlived(
    connection: sqlite3.Connection, *, until: float, max_kept: int, in_use: frozenset[str], at_most: int
) -> Sequence[tuple[str, float]]:
    """Return sessions that may go, with their last change: changed up to ``until``, or more than are kept.

    Oldest first; none that is in use.
    """
    excess = connection.execute("SELECT count(*) FROM sessions").fetchone()[0] - max_kept
    found: list[tuple[str, float]] = []
    rows = connection.execute("SELECT session_id, changed_at FROM sessions ORDER BY changed_at")
    for number, (key, changed_at) in enumerate(rows):
        if len(found) >= at_most or (changed_at > until and number >= excess):
            break
        if key not in in_use:
            found.append((key, changed_at))
    return found
