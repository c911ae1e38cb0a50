"""Texts for people: keys, channels and reasons come from outside, and must not steer the terminal."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from detector_worker.cli.mpta.description import size_text
from detector_worker.storage.spool.backlog import Backlog, SinkBacklog

__all__ = ["duration_text", "entries_text", "json_text", "lost_text", "moment_text", "waiting_lines"]

_LOST: Final = {
    "dropped_pictures": "{} dropped as pictures for want of room",
    "dropped_records": "{} dropped with their records for want of room",
    "expired": "{} too old to be published",
    "removed": "{} taken out by hand",
}
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def json_text(value: Any, *, indent: bool = False) -> str:
    """Return JSON in which whatever could steer a terminal is escaped; otherwise as people read it."""
    text = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else 0).decode()
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def entries_text(number: int) -> str:
    """Return a number of entries in words."""
    return f"{number} {'entry' if number == 1 else 'entries'}"


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units, such as ``3 h 5 min``."""
    rest, parts = max(0, int(seconds)), list[str]()
    for size, unit in _UNITS:
        number, rest = divmod(rest, size)
        if number or parts:
            parts.append(f"{number} {unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 ")) or "0 s"


def moment_text(utc_s: float) -> str:
    """Return a moment and how long ago it was, or lies ahead."""
    away_s = time.time() - utc_s
    told = f"{duration_text(away_s)} ago" if away_s >= 0 else f"in {duration_text(-away_s)}"
    return f"{datetime.fromtimestamp(utc_s, UTC):%Y-%m-%d %H:%M:%S} UTC, {told}"


def waiting_lines(backlog: Backlog) -> Iterator[str]:
    """Yield a line for each sink, and one for the dead letters."""
    for sink, waiting in backlog.sinks.items():
        yield f"Waiting for {sink}: {_waiting_text(waiting)}"
    dead = backlog.dead_letters
    yield f"Dead letters: {dead}, see `detector-worker spool list --dead`" if dead else "Dead letters: none"


def lost_text(backlog: Backlog) -> str:
    """Return what was accepted but never delivered, since the file was made."""
    told = [_LOST.get(name, f"{{}} {name}").format(number) for name, number in backlog.lost.items()]
    return ", ".join(told) or "nothing"


def _waiting_text(waiting: SinkBacklog) -> str:
    if waiting.oldest_at is None:
        return "nothing"
    age = duration_text(time.time() - waiting.oldest_at)
    return f"{entries_text(waiting.entries)}, {size_text(waiting.size_bytes)}, the oldest for {age}"
