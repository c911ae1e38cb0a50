"""Models in memory: loaded once, shared by whoever asks, kept while in use, evicted when nobody does.

One network is one file's content with one preprocessing; its compiled forms, one for each input size, are shared
by every camera and branch that uses it. A `LoadedModel` is one user's hold on it.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from weakref import WeakValueDictionary

from pydantic import ValidationError

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.model_cache import CacheStats, ModelCache, ModelKey, SharedModel
from detector_worker.models.model_reading import ModelReading, read_model
from detector_worker.models.pipeline_config import BranchConfig, ModelSettings
from detector_worker.models.runtime import CompiledModel, Hw, InferenceRuntime, ModelSpec

__all__ = ["LoadedModel", "ModelCache", "ModelConfig", "ModelManager"]

_LONG_SIDE_PX: Final = 640
_CLASSIFIER_HW: Final = (224, 224)
_STEP_PX: Final = 32


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


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """One user's hold on a network, until `ModelManager.unload_model`."""

    settings: ModelSettings
    reading: ModelReading
    shared: SharedModel
    long_side_px: int
    default_hw: Hw
    key: ModelKey = field(repr=False)

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
        key = ModelKey(content_sha256, reading.preprocessing)
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
