"""Models in memory: loaded once, shared by whoever asks, kept while in use, evicted when nobody does.

One network is one file's content with one preprocessing. A `LoadedModel` is one user's hold on it.
"""

import asyncio
import hashlib
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from weakref import WeakValueDictionary

from pydantic import ValidationError

from detector_worker.core.exceptions import ModelCacheError, ModelLoadError
from detector_worker.models.model_reading import ModelReading, read_model
from detector_worker.models.pipeline_config import BranchConfig, ModelSettings
from detector_worker.models.runtimes.runtime import CompiledModel, Hw, InferenceRuntime, ModelSpec, Preprocessing

__all__ = ["CacheStats", "LoadedModel", "ModelCache", "ModelConfig", "ModelManager"]

ModelKey = tuple[str, Preprocessing]
"""What makes two networks the same: the hash of their content, and what is compiled in."""

_LOG: Final = logging.getLogger(__name__)
_DETECTOR_HW: Final = (384, 640)  # of the usual 16:9 camera
_CLASSIFIER_HW: Final = (224, 224)
_STEP_PX: Final = 32
_MAX_SHAPES: Final = 6


class SharedModel:
    """One network, compiled for each input size that somebody needs. Thread-safe but for ``holds``."""

    def __init__(self, runtime: InferenceRuntime, path: Path, preprocessing: Preprocessing) -> None:
        self.holds = 0
        self._runtime, self._path, self._preprocessing = runtime, path, preprocessing
        self._lock = threading.Lock()
        self._compiled: dict[Hw, CompiledModel] = {}

    @property
    def memory_bytes(self) -> int:
        """Of all compiled forms, estimated."""
        return sum(compiled.memory_bytes for compiled in tuple(self._compiled.values()))

    def compiled(self, input_hw: Hw) -> CompiledModel:
        """Return the network for an input size, compiled at the first call.

        Each size costs memory: past the first few comes the square that holds any picture.
        """
        if (found := self._compiled.get(input_hw)) is not None:
            return found
        with self._lock:
            if len(self._compiled) >= _MAX_SHAPES:
                input_hw = (max(input_hw), max(input_hw))
            if input_hw not in self._compiled:
                self._compiled[input_hw] = self._runtime.compile(self._path, self._preprocessing, input_hw=input_hw)
            return self._compiled[input_hw]


class CacheStats(NamedTuple):
    """Networks in memory, those that somebody holds, their estimated size, and evictions since the start."""

    models: int
    in_use: int
    memory_bytes: int
    evictions: int


class ModelCache:
    """Networks by identity, the longest unused first; none is evicted while somebody holds it. For one event loop."""

    def __init__(self, *, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._models: dict[ModelKey, SharedModel] = {}
        self._evictions = 0

    def get(self, key: ModelKey) -> SharedModel | None:
        """Return a network without holding it."""
        return self._models.get(key)

    def put(self, key: ModelKey, model: SharedModel) -> None:
        """Add a network, which may be there already, and hold it once more; ModelCacheError: it can never fit."""
        needed, budget = self._estimate_memory(model), self._budget_bytes
        if needed > budget:
            what = f"The model needs about {needed >> 20} MiB, all models may take {budget >> 20} MiB"
            mend = "Raise models.memory_budget_mb, or export a smaller model."
            raise ModelCacheError(what, where="model cache", mend=mend)
        model.holds += 1
        self._models.pop(key, None)
        self._models[key] = model
        self._evictions += self._evict_unused(budget)

    def remove(self, key: ModelKey) -> bool:
        """Drop a network that nobody holds; returns whether it was there and free."""
        model = self._models.get(key)
        return model is not None and not model.holds and self._models.pop(key) is model

    def remove_unused(self) -> int:
        """Drop every network that nobody holds; returns how many."""
        return self._evict_unused(0)

    def get_cache_stats(self) -> CacheStats:
        """Return the figures."""
        models = self._models.values()
        in_use, memory_bytes = sum(model.holds > 0 for model in models), sum(map(self._estimate_memory, models))
        return CacheStats(len(models), in_use, memory_bytes, self._evictions)

    def _estimate_memory(self, model: SharedModel) -> int:
        return model.memory_bytes

    def _evict_unused(self, budget_bytes: int) -> int:
        """Drop the longest unused until the others fit, as far as nobody holds them; returns how many."""
        evicted = 0
        for key in tuple(self._models):
            if self.get_cache_stats().memory_bytes > budget_bytes:
                evicted += self.remove(key)
        if (used := self.get_cache_stats().memory_bytes) > self._budget_bytes:
            _LOG.warning("Models in use take %d MiB, more than models.memory_budget_mb: all of them stay", used >> 20)
        return evicted


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model, and how the archive wants it used."""

    path: Path
    settings: ModelSettings

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, folder: Path = Path()) -> Self:
        """Take the model's part of a pipeline or a branch; ModelLoadError: its keys are missing or wrong."""
        try:
            settings = ModelSettings.model_validate(dict(data), extra="ignore")
        except ValidationError as exc:
            wrong = sorted({str(error["loc"][0]) for error in exc.errors(include_input=False)})
            what, mend = f"The model's settings are wrong: {', '.join(wrong)}", "Correct them in pipeline.json."
            raise ModelLoadError(what, where=f"model {data.get('modelId', '?')}", mend=mend) from exc
        return cls(folder / settings.model_file, settings)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """One user's hold on a network, until `ModelManager.unload_model`."""

    settings: ModelSettings
    spec: ModelSpec
    reading: ModelReading
    shared: SharedModel

    @property
    def model_id(self) -> str:
        """As the archive names it."""
        return self.settings.model_id

    def compiled_for(self, source_wh: tuple[int, int]) -> CompiledModel:
        """Return the network in the input size that suits pictures of a size; may compile, which takes a moment.

        A detector of open size gets the picture's proportions: the long side as it was trained, the short one rounded
        up to a multiple of 32.
        """
        if not self.spec.is_dynamic or self.settings.model_type != "detection":
            return self.shared.compiled(self.spec.input_hw)
        scale = self.reading.long_side_px / max(source_wh)
        width, height = (max(1, -(-round(side * scale) // _STEP_PX)) * _STEP_PX for side in source_wh)
        return self.shared.compiled((height, width))


class ModelManager:
    """Loads models off the event loop, each network once however many wait for it. Belongs to one event loop."""

    def __init__(self, runtime: InferenceRuntime, *, memory_budget_bytes: int) -> None:
        self._runtime = runtime
        self._cache = ModelCache(budget_bytes=memory_budget_bytes)
        self._loading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loaded: list[LoadedModel] = []

    async def load_model(self, config: ModelConfig) -> LoadedModel:
        """Return a hold on a model, to be given back with `unload_model`; ModelError: it cannot be loaded."""
        content_sha256 = await asyncio.to_thread(_sha256, config)
        lock = self._loading.setdefault(content_sha256, asyncio.Lock())
        async with lock:  # whoever comes second finds the network in the cache
            spec, reading = await asyncio.to_thread(self._read, config)
            key = (content_sha256, reading.preprocessing)
            shared = self._cache.get(key) or SharedModel(self._runtime, config.path, reading.preprocessing)
            await asyncio.to_thread(shared.compiled, spec.input_hw)
            self._cache.put(key, shared)
        model = LoadedModel(config.settings, spec, reading, shared)
        self._loaded.append(model)
        return model

    def get_model(self, model_id: str) -> LoadedModel | None:
        """Return the newest hold on a model of this id, without adding one."""
        return next((model for model in reversed(self._loaded) if model.model_id == model_id), None)

    def unload_model(self, model: LoadedModel) -> None:
        """Give a hold back; a second time does nothing."""
        if model in self._loaded:
            self._loaded.remove(model)
            model.shared.holds -= 1

    def cleanup_unused(self) -> int:
        """Drop every network that nobody holds; returns how many."""
        return self._cache.remove_unused()

    def get_memory_usage(self) -> int:
        """Bytes that all networks take, estimated."""
        return self.get_cache_stats().memory_bytes

    def get_cache_stats(self) -> CacheStats:
        """Return the figures of the cache."""
        return self._cache.get_cache_stats()

    def _read(self, config: ModelConfig) -> tuple[ModelSpec, ModelReading]:
        settings, input_hw = config.settings, _CLASSIFIER_HW
        if settings.model_type == "detection":
            input_hw = _DETECTOR_HW
        elif isinstance(settings, BranchConfig) and settings.resize_target is not None:
            input_hw = (settings.resize_target[1], settings.resize_target[0])
        spec = self._runtime.read_spec(config.path, input_hw=input_hw)
        return spec, read_model(settings, spec)


def _sha256(config: ModelConfig) -> str:
    """Identify a model by the content of its file, or of both its files."""
    digest, weights = hashlib.sha256(), config.path.with_suffix(".bin")
    try:
        for path in (config.path, weights) if config.path.suffix == ".xml" else (config.path,):
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
    except OSError as exc:
        what, mend = f"The model file {config.path.name} cannot be read: {exc.strerror}", "Pack the archive anew."
        raise ModelLoadError(what, where=f"model {config.settings.model_id}", mend=mend) from exc
    return digest.hexdigest()
