"""What is kept in memory for a while: sessions, the latest detections of each camera, results of pipelines."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import orjson

from detector_worker.core.clock import Clock
from detector_worker.core.entities import DetectionResult, FieldValue, PipelineResult

__all__ = ["CacheStats", "SessionCache", "SessionCacheManager"]

_ENTRY_BYTES: Final = 300  # what an entry takes besides its key and value: measured on CPython 3.11, rounded up


@dataclass(slots=True)
class CacheStats:
    """What a cache holds, and since the start: evicted to make room, expired, refused as larger than the cache."""

    entries: int = 0
    size_bytes: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    expirations: int = 0
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    value: bytes
    size_bytes: int
    expires_s: float


class SessionCache:
    """The least recently used go first, bounded by entries and by bytes; each lives for ``ttl_s`` after its `put`.

    Values are kept as JSON: their size is known, and nobody holds a reference into the cache. Used from one event loop.
    """

    def __init__(self, *, max_entries: int, max_bytes: int, ttl_s: float, clock: Clock) -> None:
        self._max_entries, self._max_bytes, self._ttl_s, self._clock = max_entries, max_bytes, ttl_s, clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._stats = CacheStats()

    async def put(self, key: str, value: FieldValue) -> bool:
        """Keep a value; False where it is larger than the whole cache, which then keeps nothing under the key."""
        encoded = orjson.dumps(value)
        size_bytes = len(encoded) + len(key.encode()) + _ENTRY_BYTES
        await self.remove(key)
        if size_bytes > self._max_bytes:
            self._stats.refusals += 1
            return False
        self._entries[key] = _Entry(encoded, size_bytes, self._clock.monotonic_s() + self._ttl_s)
        self._stats.size_bytes += size_bytes
        self._check_memory_limit()
        return True

    async def get(self, key: str) -> FieldValue:
        """Return a value and count it as used; None where there is none, or no longer."""
        self._drop_expired([key])
        entry = self._entries.get(key)
        if entry is None:
            self._stats.misses += 1
            return None
        self._stats.hits += 1
        self._entries.move_to_end(key)
        value: FieldValue = orjson.loads(entry.value)
        return value

    async def remove(self, key: str) -> bool:
        """Forget a value; False where there was none."""
        entry = self._entries.pop(key, None)
        self._stats.size_bytes -= entry.size_bytes if entry else 0
        return entry is not None

    async def cleanup_expired(self) -> int:
        """Forget what nobody has asked for since its time passed, and return how many that were."""
        return self._drop_expired(list(self._entries))

    async def get_stats(self) -> CacheStats:
        """Return the counts as they are."""
        return self.stats

    @property
    def stats(self) -> CacheStats:
        """As `get_stats`, for who cannot wait."""
        return replace(self._stats, entries=len(self._entries))

    def _check_memory_limit(self) -> None:
        while len(self._entries) > self._max_entries or self._stats.size_bytes > self._max_bytes:
            self._evict_lru()

    def _evict_lru(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self._stats.size_bytes -= entry.size_bytes
        self._stats.evictions += 1

    def _drop_expired(self, keys: Sequence[str]) -> int:
        now_s = self._clock.monotonic_s()
        expired = [key for key in keys if key in self._entries and self._entries[key].expires_s <= now_s]
        for key in expired:
            self._stats.size_bytes -= self._entries.pop(key).size_bytes
        self._stats.expirations += len(expired)
        return len(expired)


class SessionCacheManager:
    """The worker's three caches, of one third of the memory each."""

    def __init__(self, *, max_entries: int, max_bytes: int, ttl_s: float, clock: Clock) -> None:
        self._detections, self._results, self._sessions = (
            SessionCache(max_entries=max_entries, max_bytes=max_bytes // 3, ttl_s=ttl_s, clock=clock) for _ in range(3)
        )

    async def cache_detection(self, camera_id: str, detections: Sequence[DetectionResult]) -> None:
        """Keep the latest detections of a camera."""
        await self._detections.put(camera_id, [asdict(detection) for detection in detections])

    async def latest_detection(self, camera_id: str) -> FieldValue:
        """Return the latest detections of a camera, or None."""
        return await self._detections.get(camera_id)

    async def cache_pipeline_result(self, session_id: str, result: PipelineResult) -> None:
        """Keep the latest result of a session."""
        await self._results.put(session_id, asdict(result))

    async def pipeline_result(self, session_id: str) -> FieldValue:
        """Return the latest result of a session, or None."""
        return await self._results.get(session_id)

    async def create_session(self, session_id: str, data: Mapping[str, FieldValue]) -> None:
        """Keep a session, in place of an older one of this name."""
        await self._sessions.put(session_id, dict(data))

    async def session(self, session_id: str) -> dict[str, FieldValue] | None:
        """Return a session, or None."""
        session = await self._sessions.get(session_id)
        return session if isinstance(session, dict) else None

    async def update_session(self, session_id: str, data: Mapping[str, FieldValue]) -> dict[str, FieldValue] | None:
        """Merge data into a session, one level deep, and return all of it; null deletes a key. None: there is none."""
        session = await self.session(session_id)
        if session is None:
            return None
        merged: dict[str, FieldValue] = {key: value for key, value in {**session, **data}.items() if value is not None}
        await self.create_session(session_id, merged)
        return merged

    def stats(self) -> dict[str, CacheStats]:
        """Return the counts of each cache, by what it holds."""
        return {
            "detections": self._detections.stats,
            "results": self._results.stats,
            "sessions": self._sessions.stats,
        }

    async def cleanup_expired(self) -> int:
        """Forget what has expired, in all three, and return how many that were."""
        return sum([await cache.cleanup_expired() for cache in (self._detections, self._results, self._sessions)])
