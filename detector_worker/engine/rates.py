"""How often, and how late: the figures that a lane keeps of itself."""

from collections import deque

import numpy as np

__all__ = ["LatencyWindow", "RateMeter"]


class RateMeter:
    """Events per second over the last seconds. One writer, any reader; the time is given."""

    def __init__(self, *, window_s: float = 10.0) -> None:
        self._window_s = window_s
        self._buckets: deque[tuple[int, int]] = deque(maxlen=int(window_s) + 1)
        """(whole second, events in it), oldest first."""
        self._first_s: float | None = None
        self.total = 0

    def add(self, now_s: float) -> None:
        """Count one event at ``now_s``, monotonic seconds."""
        self.total += 1
        if self._first_s is None:
            self._first_s = now_s
        second = int(now_s)
        if self._buckets and self._buckets[-1][0] == second:
            self._buckets[-1] = (second, self._buckets[-1][1] + 1)
        else:
            self._buckets.append((second, 1))

    def per_second(self, now_s: float) -> float:
        """Return the rate up to ``now_s``; a meter younger than its window is judged by its age."""
        if self._first_s is None:
            return 0.0
        events = sum(count for second, count in tuple(self._buckets) if second > now_s - self._window_s)
        return events / min(self._window_s, max(1.0, now_s - self._first_s))


class LatencyWindow:
    """The last latencies, for percentiles. One writer, any reader."""

    def __init__(self, *, size: int = 256) -> None:
        self._latencies_ms: deque[float] = deque(maxlen=size)

    def add(self, latency_s: float) -> None:
        """Keep one latency, seconds."""
        self._latencies_ms.append(latency_s * 1000)

    def percentiles_ms(self) -> tuple[float, float] | None:
        """Return the median and the 95th percentile, milliseconds; None before the first one."""
        if not self._latencies_ms:
            return None
        p50, p95 = np.percentile(np.array(self._latencies_ms), [50, 95])
        return float(p50), float(p95)
