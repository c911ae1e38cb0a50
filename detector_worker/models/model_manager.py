"""Models in memory: tried in a child, loaded once, shared by whoever asks, kept while in use."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.core.singleton_managers import ModelCacheState
from detector_worker.models.model_cache import ModelCache, ModelKey
from detector_worker.models.model_reading import ModelReading, read_model
from detector_worker.models.runtimes.runtime import InferenceRuntime, ModelSpec, Precision
from detector_worker.models.runtimes.trial import Candidate, ModelTrial
from detector_worker.models.shared_model import LoadedModel, ModelConfig, SharedModel

__all__ = ["LoadedModel", "ModelCache", "ModelConfig", "ModelManager"]

_MAX_TRIALS: Final = 2
"""One that takes long keeps no other archive waiting, and all together take no more than twice their bound."""


class ModelManager:
    """Loads models off the event loop, each network once however many wait for it. Belongs to one event loop.

    Args:
        runtime: Compiles and runs them.
        memory_budget_bytes: For networks that nobody holds to stay in memory beside those in use.
        trial: Tries in a child what was never seen before; None: every model is trusted.
    """

    def __init__(self, runtime: InferenceRuntime, *, memory_budget_bytes: int, trial: ModelTrial | None = None) -> None:
        self.runtime = runtime
        self._cache = ModelCache(budget_bytes=memory_budget_bytes)
        self._trial, self._trials = trial, asyncio.Semaphore(_MAX_TRIALS)
        self._loading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loaded: list[LoadedModel] = []

    async def admit(self, configs: Sequence[ModelConfig]) -> dict[str, int | None]:
        """Try models that were never seen before, all of them in one child.

        Returns:
            The memory that each was seen to take, bytes, by the hash of its content; None where nobody measured.

        Raises:
            ModelLoadError: One of them is refused.
        """
        contents = {await asyncio.to_thread(_sha256, config): config for config in configs}
        if self._trial is None:
            return dict.fromkeys(contents)
        candidates = [Candidate(config.path, sha256, config.open_hw) for sha256, config in contents.items()]
        async with self._alone_with("trial", contents), self._trials:
            return dict(await asyncio.to_thread(self._trial.admit, candidates))

    async def load_model(
        self, config: ModelConfig, *, precision: Precision = "f32", compiled_from: Path | None = None
    ) -> LoadedModel:
        """Return a hold on a model, to be given back with `unload_model`; ModelError: it cannot be loaded.

        ``compiled_from`` is another file of the same network, such as a quantised one.
        """
        source = config if compiled_from is None else replace(config, path=compiled_from)
        [(content_sha256, measured_bytes)] = (await self.admit([source])).items()
        async with self._alone_with("load", [content_sha256]):  # whoever comes second finds the network in the cache
            spec, reading = await asyncio.to_thread(self._read, config)
            key = ModelKey(content_sha256, reading.preprocessing, precision)
            shared = self._cache.get(key) or SharedModel(
                self.runtime, source.path, reading.preprocessing, precision=precision, measured_bytes=measured_bytes
            )
            await asyncio.to_thread(shared.compiled, spec.input_hw)
            self._cache.put(key, shared)
        model = LoadedModel(config, content_sha256, spec, reading, shared)
        self._loaded.append(model)
        return model

    def note_growth(self) -> None:
        """A network was compiled for a further size: make room for it."""
        self._cache.make_room()

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
        """Bytes that all networks take."""
        return self.get_cache_stats().memory_bytes

    def get_cache_stats(self) -> ModelCacheState:
        """Return the figures of the cache."""
        return self._cache.get_cache_stats()

    def _read(self, config: ModelConfig) -> tuple[ModelSpec, ModelReading]:
        spec = self.runtime.read_spec(config.path, input_hw=config.open_hw)
        return spec, read_model(config.settings, spec)

    @asynccontextmanager
    async def _alone_with(self, task: str, contents: Sequence[str] | dict[str, ModelConfig]) -> AsyncIterator[None]:
        """Wait until nobody else is at the same task with the same content."""
        async with AsyncExitStack() as held:
            for sha256 in sorted(contents):  # in one order, so that two cannot wait for each other
                await held.enter_async_context(self._loading.setdefault(f"{task} {sha256}", asyncio.Lock()))
            yield


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
