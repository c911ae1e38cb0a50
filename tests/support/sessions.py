"""Sessions on a spool of a test's own, and a clock that a test turns by hand."""

from detector_worker.core.clock import Clock, SystemClock
from detector_worker.storage.session_cache import SessionCacheManager
from detector_worker.storage.sessions import Sessions
from detector_worker.storage.spool.spool import Spool

__all__ = ["HandClock", "new_caches", "new_sessions"]


class HandClock(SystemClock):
    """Both clocks show ``now_s``."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def utc_s(self) -> float:
        return self.now_s


def new_sessions(
    spool: Spool, *, ttl_s: float = 60.0, clock: Clock | None = None, cached_entries: int = 100
) -> Sessions:
    """Make sessions, which know no display yet."""
    clock = clock or SystemClock()
    caches = new_caches(max_entries=cached_entries, ttl_s=ttl_s, clock=clock)
    return Sessions(spool, caches, ttl_s=ttl_s, clock=clock)


def new_caches(*, max_entries: int = 100, ttl_s: float = 60.0, clock: Clock | None = None) -> SessionCacheManager:
    """Make caches of a megabyte each."""
    return SessionCacheManager(max_entries=max_entries, max_bytes=3 << 20, ttl_s=ttl_s, clock=clock or SystemClock())
