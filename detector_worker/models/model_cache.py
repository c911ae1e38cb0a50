"""Networks in memory, with how many hold each."""

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detector_worker.core.exceptions import ModelCacheError
from detector_worker.models.runtime import CompiledModel, Hw, InferenceRuntime, ModelSpec, Preprocessing

__all__ = ["CacheStats", "ModelCache", "ModelKey", "SharedModel"]

_LOG: Final = logging.getLogger(__name__)
_MAX_SHAPES: Final = 6


@dataclass(frozen=True, slots=True)
class ModelKey:
    """What makes two networks the same."""

    content_sha256: str
    preprocessing: Preprocessing


class SharedModel:
    """One network with its compiled forms. Thread-safe."""

    def __init__(self, runtime: InferenceRuntime, path: Path, preprocessing: Preprocessing, *, spec: ModelSpec) -> None:
        self._runtime, self._path, self._preprocessing, self._spec = runtime, path, preprocessing, spec
        self._lock = threading.Lock()
        self._compiled: dict[Hw, CompiledModel] = {}

    @property
    def memory_bytes(self) -> int:
        """Of all compiled forms."""
        return sum(compiled.memory_bytes for compiled in tuple(self._compiled.values()))

    def compiled(self, input_hw: Hw) -> CompiledModel:
        """Return the network for an input size, compiled at the first call; a model of fixed size ignores the size.

        A network has few sizes, since each costs memory: past them comes the square that holds any picture.

        Raises:
            ModelLoadError: It cannot be compiled.
        """
        if not self._spec.is_dynamic:
            input_hw = self._spec.input_hw
        found = self._compiled.get(input_hw)
        if found is not None:
            return found
        with self._lock:
            if len(self._compiled) >= _MAX_SHAPES:
                input_hw = (max(input_hw), max(input_hw))
            if input_hw not in self._compiled:
                self._compiled[input_hw] = self._runtime.compile(self._path, self._preprocessing, input_hw=input_hw)
            return self._compiled[input_hw]


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Figures of the cache since its start."""

    models: int
    in_use: int
    memory_bytes: int
    budget_bytes: int
    hits: int
    misses: int
    evictions: int


class ModelCache:
    """Networks by identity, with how many hold each. Evicts the longest unused; nothing in use. Thread-safe."""

    def __init__(self, *, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._lock = threading.RLock()
        self._models: OrderedDict[ModelKey, SharedModel] = OrderedDict()
        self._holds: dict[ModelKey, int] = {}
        self._hits = self._misses = self._evictions = 0

    def get(self, key: ModelKey) -> SharedModel | None:
        """Return a network without holding it."""
        with self._lock:
            model = self._models.get(key)
            self._hits, self._misses = self._hits + (model is not None), self._misses + (model is None)
            return model

    def put(self, key: ModelKey, model: SharedModel) -> SharedModel:
        """Add a network and hold it once; returns the one to use, which another may have put before.

        Where those in use leave no room, they stay and a warning says so.

        Raises:
            ModelCacheError: It is larger than the whole budget.
        """
        needed = self._estimate_memory(model)
        if needed > self._budget_bytes:
            raise ModelCacheError(
                f"The model needs about {needed >> 20} MiB, all models may take {self._budget_bytes >> 20} MiB",
                where="model cache",
                mend="Raise models.memory_budget_mb, or export a smaller model.",
            )
        with self._lock:
            if key not in self._models:
                self._evict_unused(needed)
            model = self._models.setdefault(key, model)
            self._models.move_to_end(key)
            self._holds[key] = self._holds.get(key, 0) + 1
            return model

    def release(self, key: ModelKey) -> None:
        """Let go of one hold; the network stays until its room is needed."""
        with self._lock:
            self._holds[key] -= 1
            if not self._holds[key]:
                del self._holds[key]

    def remove(self, key: ModelKey) -> bool:
        """Drop a network that nobody holds; returns whether it was there and free."""
        with self._lock:
            return key not in self._holds and self._models.pop(key, None) is not None

    def evict_all_unused(self) -> int:
        """Drop every network that nobody holds; returns how many."""
        with self._lock:
            return sum(self.remove(key) for key in tuple(self._models))

    def get_cache_stats(self) -> CacheStats:
        """Return the figures."""
        with self._lock:
            memory_bytes = sum(map(self._estimate_memory, self._models.values()))
            return CacheStats(
                len(self._models),
                len(self._holds),
                memory_bytes,
                self._budget_bytes,
                self._hits,
                self._misses,
                self._evictions,
            )

    def _estimate_memory(self, model: SharedModel) -> int:
        return model.memory_bytes

    def _evict_unused(self, needed_bytes: int) -> None:
        """Make room, the longest unused first, as far as unused networks can."""
        used = sum(map(self._estimate_memory, self._models.values()))
        for key, model in tuple(self._models.items()):
            if used + needed_bytes <= self._budget_bytes:
                return
            if self.remove(key):
                used -= self._estimate_memory(model)
                self._evictions += 1
        if used + needed_bytes > self._budget_bytes:
            _LOG.warning(
                "Models in use take about %d MiB, more than the budget of %d MiB: all of them stay",
                (used + needed_bytes) >> 20,
                self._budget_bytes >> 20,
            )
