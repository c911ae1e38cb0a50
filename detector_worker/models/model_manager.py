"""Models in memory: loaded once, shared by whoever asks, kept while in use, evicted when nobody does.

One network is one file's content with one preprocessing; its compiled forms, one for each input size, are shared
by every camera and branch that uses it. A `LoadedModel` is one user's hold on it.
"""

import asyncio
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from weakref import WeakValueDictionary

from pydantic import ValidationError

from detector_worker.core.exceptions import ModelCacheError, ModelLoadError
from detector_worker.models.model_reading import ModelReading, read_model
from detector_worker.models.pipeline_config import BranchConfig, ModelSettings
from detector_worker.models.runtime import CompiledModel, Hw, InferenceRuntime, ModelSpec, Preprocessing

__all__ = ["CacheStats", "LoadedModel", "ModelCache", "ModelConfig", "ModelManager", "SharedModel"]

_LOG: Final = logging.getLogger(__name__)
_LONG_SIDE_PX: Final = 640
_CLASSIFIER_HW: Final = (224, 224)
_STEP_PX: Final = 32
_MAX_SHAPES: Final = 6


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model, and how the archive wants it used."""

    path: Path
    settings: ModelSettings

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, folder: Path = Path()) -> Self:
        """Take the model's part of a pipeline or a branch; ``modelFile`` is looked up in ``folder``.

        Raises:
            ModelLoadError: The keys of a model are missing or wrong.
        """
        known = {name: info.alias for name, info in ModelSettings.model_fields.items()}
        own = {key: value for key, value in data.items() if key in known or key in known.values()}
        try:
            settings = ModelSettings.model_validate(own)
        except ValidationError as exc:
            wrong = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors(include_input=False)]
            raise ModelLoadError(
                f"The model's settings are wrong: {'; '.join(wrong)}",
                where=f"model {data.get('modelId', '?')}",
                mend="modelId, modelFile and modelType are needed.",
            ) from exc
        return cls(folder / settings.model_file, settings)


@dataclass(frozen=True, slots=True)
class _ModelKey:
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


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """One user's hold on a network, until `ModelManager.unload_model`."""

    settings: ModelSettings
    reading: ModelReading
    shared: SharedModel
    long_side_px: int
    default_hw: Hw
    key: _ModelKey = field(repr=False)

    @property
    def model_id(self) -> str:
        """As the archive names it."""
        return self.settings.model_id

    def compiled_for(self, source_wh: tuple[int, int]) -> CompiledModel:
        """Return the network in the input size that suits pictures of a size; may compile, which takes a moment.

        A model of open size gets the picture's own proportions: the long side as the model was trained, the short
        one rounded up to a multiple of 32. Classifiers always get their one size.
        """
        if self.settings.model_type != "detection":
            return self.shared.compiled(self.default_hw)
        width, height = source_wh
        scale = self.long_side_px / max(width, height, 1)
        return self.shared.compiled((_ceil(height * scale), _ceil(width * scale)))


def _ceil(pixels: float) -> int:
    return max(_STEP_PX, -(-round(pixels) // _STEP_PX) * _STEP_PX)


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
        self._models: OrderedDict[_ModelKey, SharedModel] = OrderedDict()
        self._holds: dict[_ModelKey, int] = {}
        self._hits = self._misses = self._evictions = 0

    def get(self, key: _ModelKey) -> SharedModel | None:
        """Return a network without holding it."""
        with self._lock:
            model = self._models.get(key)
            self._hits, self._misses = self._hits + (model is not None), self._misses + (model is None)
            return model

    def put(self, key: _ModelKey, model: SharedModel) -> SharedModel:
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

    def release(self, key: _ModelKey) -> None:
        """Let go of one hold; the network stays until its room is needed."""
        with self._lock:
            self._holds[key] -= 1
            if not self._holds[key]:
                del self._holds[key]

    def remove(self, key: _ModelKey) -> bool:
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


class ModelManager:
    """Loads models off the event loop, each network once however many wait for it."""

    def __init__(self, runtime: InferenceRuntime, *, memory_budget_bytes: int) -> None:
        self._runtime = runtime
        self._cache = ModelCache(budget_bytes=memory_budget_bytes)
        self._loading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loaded: dict[LoadedModel, None] = {}

    async def load_model(self, config: ModelConfig) -> LoadedModel:
        """Return a hold on a model; give it back with `unload_model`.

        Raises:
            ModelLoadError: The file is missing or cannot be read, understood or compiled.
            ModelCacheError: It is larger than the budget.
        """
        content_sha256 = await asyncio.to_thread(_sha256, config)
        lock = self._loading.setdefault(content_sha256, asyncio.Lock())
        async with lock:  # whoever comes second finds the network in the cache
            loaded = await asyncio.to_thread(self._load, config, content_sha256)
            # Held here and not in the thread: a caller that gave up in between must leave no hold behind.
            shared = self._cache.put(loaded.key, loaded.shared)
        loaded = LoadedModel(
            loaded.settings, loaded.reading, shared, loaded.long_side_px, loaded.default_hw, loaded.key
        )
        self._loaded[loaded] = None
        return loaded

    def get_model(self, model_id: str) -> LoadedModel | None:
        """Return the newest hold on a model of this id, without adding one."""
        return next((model for model in reversed(self._loaded) if model.model_id == model_id), None)

    def unload_model(self, model: LoadedModel) -> None:
        """Give a hold back; a second time does nothing."""
        if model in self._loaded:
            del self._loaded[model]
            self._cache.release(model.key)

    def cleanup_unused(self) -> int:
        """Drop every network that nobody holds; returns how many."""
        return self._cache.evict_all_unused()

    def get_memory_usage(self) -> int:
        """Bytes that all networks take, estimated."""
        return self._cache.get_cache_stats().memory_bytes

    def get_cache_stats(self) -> CacheStats:
        """Return the figures of the cache."""
        return self._cache.get_cache_stats()

    def _load(self, config: ModelConfig, content_sha256: str) -> LoadedModel:
        """Read a model and find or compile its network. Runs in a thread; changes nothing of the manager's."""
        settings = config.settings
        default_hw = _default_hw(settings)
        spec = self._runtime.read_spec(config.path, input_hw=default_hw)
        long_side_px = _trained_long_side(spec)
        reading = read_model(settings, spec)
        key = _ModelKey(content_sha256, reading.preprocessing)
        shared = self._cache.get(key)
        if shared is None:
            shared = SharedModel(self._runtime, config.path, reading.preprocessing, spec=spec)
        shared.compiled(spec.input_hw)
        return LoadedModel(settings, reading, shared, long_side_px, spec.input_hw, key)


def _default_hw(settings: ModelSettings) -> Hw:
    """The size at which a model of open size is first read: of the usual 16:9 camera, or a classifier's."""
    if settings.model_type == "detection":
        return (384, 640)
    if isinstance(settings, BranchConfig) and settings.resize_target is not None:
        return (settings.resize_target[1], settings.resize_target[0])
    return _CLASSIFIER_HW


def _trained_long_side(spec: ModelSpec) -> int:
    """The long side that the exporter noted (``imgsz``, such as ``[640, 640]``), else 640 pixels."""
    digits = [int(part) for part in spec.metadata.get("imgsz", "").strip("[] ").split(",") if part.strip().isdecimal()]
    long_side = max(digits, default=_LONG_SIDE_PX)
    return long_side if _STEP_PX <= long_side <= 4096 else _LONG_SIDE_PX


def _sha256(config: ModelConfig) -> str:
    try:
        with config.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        weights = config.path.with_suffix(".bin")
        if config.path.suffix == ".xml" and weights.exists():
            digest.update(weights.read_bytes())
    except OSError as exc:
        raise ModelLoadError(
            f"The model file {config.path.name} cannot be read: {exc.strerror}",
            where=f"model {config.settings.model_id}",
            mend="Pack it into the archive under the name that modelFile gives.",
        ) from exc
    return digest.hexdigest()
