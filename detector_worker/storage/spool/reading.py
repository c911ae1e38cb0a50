"""What a sink gets next out of the spool's file.

Many rows come out of SQLite as one JSON text: it hands the interpreter's lock back and forth for each row, and beside a
busy event loop that takes longer than the row.
"""

import sqlite3
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, get_args

import orjson

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import Delivery, Sink, SpoolEntry, StoreImage
from detector_worker.storage.spool.codec import decode_delivery

__all__ = ["QueuedEntry", "read_next"]

_PICTURE: Final = StoreImage.__name__
_COLUMNS: Final = "seq, size_bytes, created_at, key, visit_id, kind, payload"
_NEXT: Final = f"""
SELECT {_COLUMNS} FROM entries
WHERE sink = ? AND dead_reason IS NULL AND seq > ? AND (expires_at IS NULL OR expires_at > ?) ORDER BY seq LIMIT ?
"""  # noqa: S608 - our own names
_USUAL_BYTES: Final = """
SELECT sum(size_bytes) / sum(entries) FROM totals WHERE entries > 0 AND kind IN (SELECT value FROM json_each(?))
"""
_KINDS: Final = {
    sink: orjson.dumps([kind.__name__ for kind in get_args(Delivery) if kind.sink is sink]).decode() for sink in Sink
}
_NEXT_AS_JSON: Final = f"""
SELECT '[' || coalesce(group_concat(
  printf('[%d,%d,%!.17g,', seq, size_bytes, created_at)
  || json_quote(key) || ',' || json_quote(visit_id) || ',' || json_quote(kind) || ',' || CAST(payload AS TEXT) || ']'
), '') || ']' FROM ({_NEXT})
"""  # noqa: S608 - our own names


class QueuedEntry(NamedTuple):
    """An entry with its place in the queue."""

    seq: int
    entry: SpoolEntry


def read_next(
    connection: sqlite3.Connection, sink: Sink, *, after: int, max_entries: int, max_bytes: int
) -> tuple[list[QueuedEntry], dict[int, str]]:
    """Return the oldest entries behind a place in the queue, and of those that cannot be read why, by their places.

    One at least where any waits, then up to the bounds; only those that are not too old by now.
    """
    connection.execute("BEGIN")  # one state of the file: a picture may be dropped for want of room meanwhile
    try:
        return _read(connection, sink, after, max_entries, max_bytes)
    finally:
        connection.execute("ROLLBACK")


def _read(
    connection: sqlite3.Connection, sink: Sink, after: int, max_entries: int, max_bytes: int
) -> tuple[list[QueuedEntry], dict[int, str]]:
    found: list[QueuedEntry] = []
    unreadable: dict[int, str] = {}
    room_bytes = max_bytes
    # All that is looked at comes as one text: not many more than fit.
    usual_bytes = connection.execute(_USUAL_BYTES, (_KINDS[sink],)).fetchone()[0] or 1
    at_most = max(1, min(max_entries, 2 * max_bytes // usual_bytes))
    rows = _rows(connection, (sink, after, time.time(), at_most))
    for seq, size_bytes, created_at, key, visit_id, kind, payload in rows:
        room_bytes -= size_bytes
        if room_bytes < 0 and found:
            break
        picture = None
        if kind == _PICTURE:
            (picture,) = connection.execute("SELECT picture FROM entries WHERE seq = ?", (seq,)).fetchone()
        try:
            entry = SpoolEntry(key, visit_id, created_at, decode_delivery(kind, payload, picture))
        except ServiceError as exc:
            unreadable[seq] = exc.what
        else:
            found.append(QueuedEntry(seq, entry))
    return found, unreadable


def _rows(connection: sqlite3.Connection, values: tuple[object, ...]) -> Iterator[Any]:
    (text,) = connection.execute(_NEXT_AS_JSON, values).fetchone()
    try:
        yield from orjson.loads(text)
    except orjson.JSONDecodeError:  # a payload is damaged: found out alone, it harms no other
        yield from connection.execute(_NEXT, values).fetchall()
