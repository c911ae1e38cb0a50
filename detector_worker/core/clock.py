"""The only clock, and how long to wait before trying again.

Policy never reads a clock: it is given the time. Who reads one is given a `Clock`, so that a test or a
file source can be its own master of time.
"""

import random
import threading
import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Backoff", "Clock", "SystemClock", "rfc3339"]


class Clock(Protocol):
    """Where the time comes from."""

    def monotonic_s(self) -> float:
        """Seconds that never run backwards; only differences mean anything."""
        ...

    def utc_s(self) -> float:
        """Seconds since 1970, UTC."""
        ...

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Wait until the event is set, for ``timeout_s`` at most; True if it is set."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def utc_s(self) -> float:
        return time.time()

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        return event.wait(timeout_s)


def rfc3339(utc_s: float) -> str:
    """Write a time as people, records and the wire read it: UTC, milliseconds, such as 2026-01-31T09:26:53.589Z."""
    return datetime.fromtimestamp(utc_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Backoff:
    """Doubling, jittered delays between attempts; pure, not thread-safe.

    Delay n is ``base_s * 2**min(n - 1, 6)``, at most ``cap_s``, less up to a quarter by chance, so that a
    hundred cameras behind one broken switch do not return in one instant. The count starts again only
    after ``stable_s`` of success, so that a flapping camera is not hammered.
    """

    def __init__(
        self, *, base_s: float = 5.0, cap_s: float = 60.0, stable_s: float = 10.0, rng: random.Random | None = None
    ) -> None:
        self._base_s, self._cap_s, self._stable_s = base_s, cap_s, stable_s
        self._rng = rng or random.Random()
        self._errors = 0
        self._success_since_s: float | None = None

    @property
    def errors(self) -> int:
        """Errors since the last stable time."""
        return self._errors

    def note_success(self, now_s: float) -> None:
        """Tell of a success at ``now_s``, monotonic seconds."""
        if self._success_since_s is None:
            self._success_since_s = now_s
        elif now_s - self._success_since_s >= self._stable_s:
            self._errors = 0

    def next_delay_s(self, *, at_cap: bool = False) -> float:
        """Count an error and return how long to wait, seconds; ``at_cap`` for errors that no haste mends."""
        self._errors += 1
        self._success_since_s = None
        delay_s = self._cap_s if at_cap else min(self._cap_s, self._base_s * 2 ** min(self._errors - 1, 6))
        return delay_s * (1 - 0.25 * self._rng.random())
