"""A runtime, a manager and a loader as the worker makes them, in small."""

from functools import cache
from pathlib import Path
from typing import Any

from support.http_archives import new_source

from detector_worker.models.model_manager import ModelConfig, ModelManager
from detector_worker.models.pipeline_loader import PipelineLoader
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime


@cache
def runtime() -> OpenVINORuntime:
    """One for all tests: two request threads on two cores."""
    return OpenVINORuntime(threads=2, requests=2)


def new_manager(*, memory_budget_bytes: int = 1 << 30) -> ModelManager:
    """A manager of its own cache, which trusts every model."""
    return ModelManager(runtime(), memory_budget_bytes=memory_budget_bytes)


@cache
def shared_manager() -> ModelManager:
    """One for tests that care for what networks see, not for how they are kept: each is compiled once."""
    return new_manager()


def new_loader(cache_dir: Path, *, manager: ModelManager | None = None, **source: Any) -> PipelineLoader:
    """A loader that unpacks into ``cache_dir``; without a manager it has the shared one."""
    return PipelineLoader(manager or shared_manager(), new_source(cache_dir, **source))


def model_config(path: Path, model_type: str = "detection", **settings: Any) -> ModelConfig:
    """The configuration of one model file."""
    data = {"modelId": path.stem, "modelFile": path.name, "modelType": model_type, **settings}
    return ModelConfig.from_dict(data, folder=path.parent)
