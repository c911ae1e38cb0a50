"""What the person at the terminal sees while a phase runs: how far it is, and how long it will still take."""

import sys
import time
from typing import Final

__all__ = ["Progress", "say"]

_INTERVAL_S: Final = 10.0


def say(text: str) -> None:
    """Write a line to standard error: standard output belongs to the answer."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Progress:
    """One phase of known length; says at most every ten seconds how far it is."""

    def __init__(self, phase: str, total: int) -> None:
        self._phase, self._total, self._done = phase, total, 0
        self._started_s = time.monotonic()
        self._next_s = self._started_s + _INTERVAL_S
        say(f"{phase}: begins")

    @property
    def elapsed_s(self) -> float:
        """Since the phase began."""
        return time.monotonic() - self._started_s

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count what is done; ``note`` tells how well it goes."""
        self._done += count
        now_s = time.monotonic()
        if self._done >= self._total:
            say(f"{self._phase}: done in {self.elapsed_s:.0f} s{note and f', {note}'}")
        elif now_s >= self._next_s:
            self._next_s = now_s + _INTERVAL_S
            left_s = self.elapsed_s * (self._total - self._done) / self._done
            share = self._done / self._total
            say(f"{self._phase}: {share:4.0%}, {left_s:.0f} s left{note and f', {note}'}")
