"""The read model: what the worker knows of itself, for `/health`, state reports and whoever else asks.

Owners report here; nobody decides anything by what is written here. One holder, seven small ones of it.
"""

import threading
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from detector_worker.core.entities import StreamStatus

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class StateHolder(Generic[Key, Value]):
    """Values by key. Thread-safe; values are immutable, so a snapshot stays what it was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[Key, Value] = {}

    def set(self, key: Key, value: Value) -> None:
        with self._lock:
            self._values[key] = value

    def remove(self, key: Key) -> None:
        """Forget a key, whether it is known or not."""
        with self._lock:
            self._values.pop(key, None)

    def get(self, key: Key) -> Value | None:
        with self._lock:
            return self._values.get(key)

    def snapshot(self) -> Mapping[Key, Value]:
        """Return all values as they are now."""
        with self._lock:
            return dict(self._values)


@dataclass(frozen=True, slots=True)
class CameraConnection:
    """One subscription's camera at work; the fields are those of stateReport, and what the metrics tell besides."""

    subscription_id: str
    camera_id: str
    url: str
    """As it may be shown: without credentials."""
    state: str
    model_id: str | int | None = None
    model_name: str | None = None
    crop: tuple[int, int, int, int] | None = None
    """x1, y1, x2, y2, pixels of the full frame."""
    fps_in: float = 0.0
    fps_analysed: float = 0.0
    fps_dropped: float = 0.0
    latency_p50_ms: float | None = None
    """From capture to result."""
    latency_p95_ms: float | None = None
    errors: int = 0
    reconnects: int = 0
    damaged: int = 0
    """Pictures that were withheld because they were damaged."""
    error_class: str | None = None
    warnings: tuple[str, ...] = ()
    group: str | None = None
    """The process that analyses it."""
    fps_still: float = 0.0
    """Passed over, since they showed nothing new; for the metrics alone."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model of one archive."""

    state: Literal["loading", "ready", "failed"]
    memory_bytes: int = 0
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class ModelCacheState:
    """The networks of one group in memory, and what has happened to them since its start."""

    models: int = 0
    in_use: int = 0
    memory_bytes: int = 0
    loads: int = 0
    hits: int = 0
    """Times that a network was there already."""
    evictions: int = 0


@dataclass(frozen=True, slots=True)
class QueueState:
    """What one sink has before it; or the spool as a whole."""

    ok: bool
    records: int = 0
    images: int = 0
    dead_letters: int = 0
    reason: str | None = None
    """Why it is not ok, or why the last dead letter is one."""
    messages: int = 0
    size_bytes: int = 0
    oldest_at: float | None = None
    """Of what waits, seconds since 1970, UTC."""
    delivered: int = 0
    """Entries since the start."""
    warnings: tuple[str, ...] = ()
    """What the server behind it may lose by itself."""


@dataclass(frozen=True, slots=True)
class SpoolState:
    """What the spool holds and has done."""

    size_bytes: int
    quota_bytes: int
    accepted: int
    """Entries since the start."""
    refused: int
    """Likewise."""
    lost: Mapping[str, int]
    """Since the file was made, by reason: ``dropped_pictures``, ``dropped_records``, ``expired``, ``removed``."""


@dataclass(frozen=True, slots=True)
class PipelineRuns:
    """Runs of one subscription's pipeline since the start."""

    running: int = 0
    completed: int = 0
    partial: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One part of the worker: a group, an embedded server, the spool."""

    state: Literal["ok", "starting", "down"]
    detail: str | None = None
    pid: int | None = None
    stuck_threads: int = 0
    """Of a group: threads of cameras that do not come back from a library."""
    model_cache: ModelCacheState | None = None
    """Of a group."""


class StreamStateManager(StateHolder[str, StreamStatus]):
    """Camera connections, by camera id."""


class CameraStateManager(StateHolder[str, CameraConnection]):
    """Cameras at work, by subscription id."""


class ModelStateManager(StateHolder[str, ModelState]):
    """Models, by model id."""


class SessionStateManager(StateHolder[str, str | int | float]):
    """The session of each display, by display id."""


class CacheStateManager(StateHolder[str, QueueState]):
    """What waits in the spool, by sink, and under ``spool`` how it is itself."""

    spool: SpoolState | None = None
    """Counted each second."""


class PipelineStateManager(StateHolder[str, PipelineRuns]):
    """Pipeline runs, by subscription id."""


class ServiceStateManager(StateHolder[str, ServiceState]):
    """The worker's own processes and parts, by name."""


STATE_MANAGERS: Final = (
    ModelStateManager,
    StreamStateManager,
    SessionStateManager,
    CacheStateManager,
    CameraStateManager,
    PipelineStateManager,
    ServiceStateManager,
)
