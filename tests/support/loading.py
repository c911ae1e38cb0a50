"""A runtime, a manager and a loader as the worker makes them, in small."""

from functools import cache
from pathlib import Path
from typing import Any

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.models.archives.unpacking import ArchiveLimits
from detector_worker.models.model_manager import ModelConfig, ModelManager
from detector_worker.models.pipeline_loader import PipelineLoader
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime


@cache
def runtime() -> OpenVINORuntime:
    """One for all tests: two request threads on two cores."""
    return OpenVINORuntime(threads=2, requests=2)


def new_manager(*, memory_budget_bytes: int = 1 << 30) -> ModelManager:
    """A manager of its own cache."""
    return ModelManager(runtime(), memory_budget_bytes=memory_budget_bytes)


def new_loader(
    cache_dir: Path,
    *,
    manager: ModelManager | None = None,
    limits: ArchiveLimits | None = None,
    allowed_paths: tuple[Path, ...] | None = None,
    network_policy: NetworkPolicy | None = None,
    download_timeout_s: float = 5.0,
) -> PipelineLoader:
    """A loader that unpacks into ``cache_dir``."""
    return PipelineLoader(
        manager or new_manager(),
        cache_dir,
        limits=limits or ArchiveLimits(),
        allowed_paths=allowed_paths,
        network_policy=network_policy or NetworkPolicy(),
        download_timeout_s=download_timeout_s,
    )


def model_config(path: Path, model_type: str = "detection", **settings: Any) -> ModelConfig:
    """The configuration of one model file."""
    data = {"modelId": path.stem, "modelFile": path.name, "modelType": model_type, **settings}
    return ModelConfig.from_dict(data, folder=path.parent)
