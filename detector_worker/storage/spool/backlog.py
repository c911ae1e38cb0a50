"""How much the spool holds: read from its totals, as quick for a hundred thousand entries as for one."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, get_args

from detector_worker.core.outbox import Delivery, Sink, StoreImage

__all__ = ["Backlog", "SinkBacklog", "read_backlog"]

_NOTHING: Final = (0, 0)
_OLDEST_AT: Final = "SELECT created_at FROM entries WHERE sink = ? AND dead_reason IS NULL ORDER BY seq LIMIT 1"


@dataclass(frozen=True, slots=True)
class SinkBacklog:
    """What waits for one sink; ``oldest_at`` in seconds since 1970, UTC, None where nothing waits."""

    entries: int = 0
    size_bytes: int = 0
    dead_letters: int = 0
    oldest_at: float | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the spool holds, and what has become of the rest.

    Attributes:
        sinks: What waits.
        pictures: How many of them are pictures.
        dead_letters: What can never be delivered as it is.
        size_bytes: What all of it takes, of ``quota_bytes``.
        lost: Since the file was made, by reason: what was dropped for want of room (``dropped_pictures``,
            ``dropped_records``) or since it was too old (``expired``), or taken out by an operator (``removed``).
        accepted: Entries since the start.
        refused: Likewise: there was no room, or the disk failed.
    """

    sinks: Mapping[Sink, SinkBacklog]
    pictures: int
    dead_letters: int
    size_bytes: int
    quota_bytes: int
    lost: Mapping[str, int]
    accepted: int = 0
    refused: int = 0

    @property
    def entries(self) -> int:
        """All that waits."""
        return sum(sink.entries for sink in self.sinks.values())


def read_backlog(connection: sqlite3.Connection, quota_bytes: int, *, accepted: int = 0, refused: int = 0) -> Backlog:
    """Read what an opened file holds; the desk has a connection of its own."""
    totals = connection.execute("SELECT kind, is_dead, entries, size_bytes FROM totals").fetchall()
    oldest = {sink: connection.execute(_OLDEST_AT, (sink,)).fetchone() for sink in Sink}
    waiting = {kind: (number, size) for kind, is_dead, number, size in totals if not is_dead}
    dead = {kind: number for kind, is_dead, number, _ in totals if is_dead}
    return Backlog(
        sinks={sink: _of_sink(sink, waiting, dead, oldest[sink]) for sink in Sink},
        pictures=waiting.get(StoreImage.__name__, _NOTHING)[0],
        dead_letters=sum(dead.values()),
        size_bytes=sum(size for *_, size in totals),
        quota_bytes=quota_bytes,
        lost=dict(connection.execute("SELECT name, value FROM counts")),
        accepted=accepted,
        refused=refused,
    )


def _of_sink(
    sink: Sink, waiting: Mapping[str, tuple[int, int]], dead: Mapping[str, int], oldest: tuple[float] | None
) -> SinkBacklog:
    kinds = [kind.__name__ for kind in get_args(Delivery) if kind.sink is sink]
    entries, size_bytes = (sum(column) for column in zip(*(waiting.get(kind, _NOTHING) for kind in kinds), strict=True))
    return SinkBacklog(entries, size_bytes, sum(dead.get(kind, 0) for kind in kinds), oldest[0] if oldest else None)
