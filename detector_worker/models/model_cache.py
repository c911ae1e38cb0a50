"""Which networks stay in memory: all that somebody holds, and of the others as many as the budget allows."""

import logging
from typing import Final, NamedTuple

from detector_worker.core.exceptions import ModelCacheError
from detector_worker.core.singleton_managers import ModelCacheState
from detector_worker.models.runtimes.runtime import Precision, Preprocessing
from detector_worker.models.shared_model import SharedModel

__all__ = ["ModelCache", "ModelKey"]

_LOG: Final = logging.getLogger(__name__)


class ModelKey(NamedTuple):
    """What makes two networks the same: the hash of their content, and what is compiled in."""

    content_sha256: str
    preprocessing: Preprocessing
    precision: Precision


class ModelCache:
    """Networks by identity, the longest unused first; none is evicted while somebody holds it. For one event loop."""

    def __init__(self, *, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._models: dict[ModelKey, SharedModel] = {}
        self._loads = self._hits = self._evictions = 0
        self._is_over_budget = False

    def get(self, key: ModelKey) -> SharedModel | None:
        """Return a network without holding it."""
        return self._models.get(key)

    def put(self, key: ModelKey, model: SharedModel) -> None:
        """Add a network, which may be there already, and hold it once more; ModelCacheError: it can never fit."""
        is_new = self._models.get(key) is not model
        needed, budget = self._estimate_memory(model), self._budget_bytes
        if is_new and needed > budget:
            what = f"The model needs about {needed >> 20} MiB, all models may take {budget >> 20} MiB"
            mend = "Raise models.memory_budget_mb, or export a smaller model."
            raise ModelCacheError(what, where="model cache", mend=mend)
        model.holds += 1
        self._models.pop(key, None)
        self._models[key] = model
        self._loads += is_new
        self._hits += not is_new
        self.make_room()

    def make_room(self) -> None:
        """Evict what nobody holds as far as the budget wants it; warn, once, where what is held is too much."""
        self._evict_unused(self._budget_bytes)
        used = self.get_cache_stats().memory_bytes
        if used > self._budget_bytes and not self._is_over_budget:
            _LOG.warning("Models in use take %d MiB, more than models.memory_budget_mb: all of them stay", used >> 20)
        self._is_over_budget = used > self._budget_bytes

    def remove(self, key: ModelKey) -> bool:
        """Drop a network that nobody holds; returns whether it was there and free."""
        model = self._models.get(key)
        return model is not None and not model.holds and self._models.pop(key) is model

    def remove_unused(self) -> int:
        """Drop every network that nobody holds; returns how many."""
        return self._evict_unused(0)

    def get_cache_stats(self) -> ModelCacheState:
        """Return the figures."""
        models = self._models.values()
        in_use, memory_bytes = sum(model.holds > 0 for model in models), sum(map(self._estimate_memory, models))
        return ModelCacheState(len(models), in_use, memory_bytes, self._loads, self._hits, self._evictions)

    def _estimate_memory(self, model: SharedModel) -> int:
        return model.memory_bytes

    def _evict_unused(self, budget_bytes: int) -> int:
        """Drop the longest unused until the others fit, as far as nobody holds them; returns how many."""
        evicted = 0
        for key in tuple(self._models):
            if self.get_cache_stats().memory_bytes > budget_bytes:
                evicted += self.remove(key)
        self._evictions += evicted
        return evicted
