"""When a picture was taken, as far as a camera's sender reports tell."""

from collections import deque
from typing import Final

__all__ = ["CaptureClock"]

_WINDOW_S: Final = 10.0
_WINDOWS: Final = 6
_JUMP_S: Final = 5.0
_BACKWARDS_S: Final = 1.0
_LONGEST_DELAY_S: Final = 30.0
_SUSPECT_FOR_S: Final = 60.0


class CaptureClock:
    """The time of each picture of one connection. Pure: all times are given.

    Cameras' clocks are often wrong but mostly even, so only differences are used: the least lag between the camera's
    time and a picture's arrival in the last minute counts as no delay, and a picture that lags more was taken so much
    before it arrived. Where the camera tells no time, or the delay is beyond belief, the arrival counts.
    """

    def __init__(self) -> None:
        self._least_lags: deque[tuple[float, float]] = deque(maxlen=_WINDOWS)
        """(begin of a window, the least lag in it), oldest first; for clocks drift."""
        self._last_sender_s: float | None = None
        self._newest_s = float("-inf")
        self._jumped_s = float("-inf")
        self._arrived_s = float("-inf")

    @property
    def is_suspect(self) -> bool:
        """Whether the camera's clock has jumped within the last minute."""
        return self._arrived_s - self._jumped_s < _SUSPECT_FOR_S

    def times(self, *, arrived_s: float, arrived_utc_s: float, sender_s: float | None) -> tuple[float, float]:
        """Return when a picture was taken: monotonic seconds, which never run backwards, and seconds since 1970.

        Args:
            arrived_s: Arrival, monotonic seconds.
            arrived_utc_s: Arrival, seconds since 1970.
            sender_s: The same moment's capture by the camera's clock, seconds since 1970; None: it does not tell.
        """
        self._arrived_s = arrived_s
        delay_s = 0.0 if sender_s is None else self._delay_s(arrived_s, sender_s)
        time_s = max(arrived_s - delay_s, min(self._newest_s, arrived_s))
        self._newest_s = time_s
        return time_s, arrived_utc_s - (arrived_s - time_s)

    def _delay_s(self, arrived_s: float, sender_s: float) -> float:
        if self._has_jumped(arrived_s, sender_s):
            self._jumped_s = arrived_s
            self._least_lags.clear()  # a new anchor: this picture counts as undelayed
        self._last_sender_s, lag_s = sender_s, arrived_s - sender_s
        if not self._least_lags or arrived_s - self._least_lags[-1][0] >= _WINDOW_S:
            self._least_lags.append((arrived_s, lag_s))
        elif lag_s < self._least_lags[-1][1]:
            self._least_lags[-1] = self._least_lags[-1][0], lag_s
        delay_s = lag_s - min(least_s for _, least_s in self._least_lags)
        return delay_s if delay_s <= _LONGEST_DELAY_S else 0.0

    def _has_jumped(self, arrived_s: float, sender_s: float) -> bool:
        """Tell a clock that was set from a network that held pictures back: those only come late, in their order."""
        if self._last_sender_s is None:
            return False
        least_s = min(least_s for _, least_s in self._least_lags)
        return sender_s - self._last_sender_s < -_BACKWARDS_S or arrived_s - sender_s < least_s - _JUMP_S
