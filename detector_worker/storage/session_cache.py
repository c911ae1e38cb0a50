"""What is kept in memory for a while: sessions, the latest detections of each camera, results of pipelines."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import orjson

from detector_worker.core.clock import Clock
from detector_worker.core.entities import DetectionResult, FieldValue, PipelineResult

__all__ = ["CacheStats", "SessionCache", "SessionCacheManager"]

_ENTRY_BYTES: Final = 300  # what an entry takes besides its key and value: measured on CPython 3.11, rounded up


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cache holds, and what has become of the rest since the start."""

    entries: int
    size_bytes: int
    hits: int
    misses: int
    evictions: int
    """Removed to make room."""
    expirations: int
    """Removed since their time had passed."""
    refusals: int
    """Never taken, since larger than the whole cache."""


@dataclass(frozen=True, slots=True)
class _Entry:
    value: bytes
    size_bytes: int
    expires_s: float


class SessionCache:
    """The least recently used go first, bounded by entries and by bytes; each lives for ``ttl_s`` after its `put`.

    Values are kept as JSON: their size is known, and nobody holds a reference into the cache. Used from one
    event loop.
    """

    def __init__(self, *, max_entries: int, max_bytes: int, ttl_s: float, clock: Clock) -> None:
        self._max_entries, self._max_bytes, self._ttl_s, self._clock = max_entries, max_bytes, ttl_s, clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._size_bytes = self._hits = self._misses = 0
        self._evictions = self._expirations = self._refusals = 0

    async def put(self, key: str, value: FieldValue) -> bool:
        """Keep a value; False where it is larger than the whole cache, which then keeps nothing under the key.

        Raises:
            TypeError: JSON cannot hold the value.
        """
        encoded = orjson.dumps(value)
        size_bytes = len(encoded) + len(key.encode()) + _ENTRY_BYTES
        self._drop(key)
        if size_bytes > self._max_bytes:
            self._refusals += 1
            return False
        self._entries[key] = _Entry(encoded, size_bytes, self._clock.monotonic_s() + self._ttl_s)
        self._size_bytes += size_bytes
        self._check_memory_limit()
        return True

    async def get(self, key: str) -> FieldValue:
        """Return a value and count it as used; None where there is none, or no longer."""
        entry = self._entries.get(key)
        if entry is not None and entry.expires_s <= self._clock.monotonic_s():
            self._drop(key)
            self._expirations += 1
            entry = None
        if entry is None:
            self._misses += 1
            return None
        self._hits += 1
        self._entries.move_to_end(key)
        value: FieldValue = orjson.loads(entry.value)
        return value

    async def remove(self, key: str) -> bool:
        """Forget a value; False where there was none."""
        return self._drop(key)

    async def cleanup_expired(self) -> int:
        """Forget what nobody has asked for since its time passed, and return how many that were."""
        now_s = self._clock.monotonic_s()
        expired = [key for key, entry in self._entries.items() if entry.expires_s <= now_s]
        for key in expired:
            self._drop(key)
        self._expirations += len(expired)
        return len(expired)

    async def get_stats(self) -> CacheStats:
        """Return the counts as they are."""
        return CacheStats(
            entries=len(self._entries),
            size_bytes=self._size_bytes,
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            expirations=self._expirations,
            refusals=self._refusals,
        )

    def _check_memory_limit(self) -> None:
        while len(self._entries) > self._max_entries or self._size_bytes > self._max_bytes:
            self._evict_lru()

    def _evict_lru(self) -> None:
        self._drop(next(iter(self._entries)))
        self._evictions += 1

    def _drop(self, key: str) -> bool:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size_bytes -= entry.size_bytes
        return entry is not None


class SessionCacheManager:
    """The worker's three caches, of one third of the memory each."""

    def __init__(self, *, max_entries: int, max_bytes: int, ttl_s: float, clock: Clock) -> None:
        def new_cache() -> SessionCache:
            return SessionCache(max_entries=max_entries, max_bytes=max_bytes // 3, ttl_s=ttl_s, clock=clock)

        self._detections, self._results, self._sessions = new_cache(), new_cache(), new_cache()

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

    async def update_session(self, session_id: str, data: Mapping[str, FieldValue]) -> dict[str, FieldValue] | None:
        """Merge data into a session, one level deep, and return all of it; null deletes a key. None: there is none."""
        session = await self._sessions.get(session_id)
        if not isinstance(session, dict):
            return None
        merged: dict[str, FieldValue] = {key: value for key, value in {**session, **data}.items() if value is not None}
        await self._sessions.put(session_id, merged)
        return merged

    async def session(self, session_id: str) -> dict[str, FieldValue] | None:
        """Return a session, or None."""
        session = await self._sessions.get(session_id)
        return session if isinstance(session, dict) else None

    async def cleanup_expired(self) -> int:
        """Forget what has expired, in all three, and return how many that were."""
        return sum([await cache.cleanup_expired() for cache in (self._detections, self._results, self._sessions)])

    async def get_stats(self) -> dict[str, CacheStats]:
        """Return the counts of each cache."""
        named = {"detections": self._detections, "results": self._results, "sessions": self._sessions}
        return {name: await cache.get_stats() for name, cache in named.items()}
