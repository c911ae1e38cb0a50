"""What loads the archives and models of a group, or of a command that looks at archives; made of the configuration."""

import hashlib
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.config import Configuration
from detector_worker.core.settings import MIB, ModelsSettings
from detector_worker.models.archives.archive_source import ArchiveSource
from detector_worker.models.archives.unpacking import ArchiveLimits
from detector_worker.models.model_manager import LoadedModel, ModelManager
from detector_worker.models.pipeline_loader import PipelineLoader
from detector_worker.models.precision_records import PrecisionRecords
from detector_worker.models.runtimes.pt_conversion import convert_pt
from detector_worker.models.runtimes.quantisation import quantise
from detector_worker.models.runtimes.runtime import Precision
from detector_worker.models.runtimes.selection import RuntimeChoice, new_runtime, runtime_here
from detector_worker.models.runtimes.trial import ModelTrial, TrialLimits

__all__ = ["GroupModels", "lower_precisions", "precision_records", "runtime_choice"]

_ARCHIVES: Final = "archives"
_MODELS: Final = "models"
_MAKING_TAKES: Final = 2
"""Times the memory of a trial, to convert or quantise a model."""
_MAKING_S: Final = 600.0


class GroupModels:
    """A runtime and what leads to it. Used on one event loop.

    Args:
        configuration: All settings.
        threads: Analysis threads, each with one inference request.
        any_path: Archives are named by whoever started this process, not by clients: any path may be read.
    """

    def __init__(self, configuration: Configuration, *, threads: int, any_path: bool) -> None:
        models, pipelines, data_dir = configuration.models, configuration.pipelines, configuration.server.data_dir
        is_restricted = (configuration.access.tokens or pipelines.allowed_paths) and not any_path
        choice = runtime_choice(models)
        runtime = new_runtime(choice, threads=threads, requests=threads, cache_dir=data_dir / _MODELS / "compiled")
        limits = TrialLimits(models.trial_memory_mb * MIB, models.trial_seconds)
        self._trial = ModelTrial(
            data_dir / _MODELS / "tried",
            runtime_identity=runtime.identity,
            runtime_name=choice.runtime,
            device=choice.device,
            threads=threads,
            requests=threads,
            limits=limits,
        )
        budget_bytes = models.memory_budget_mb * MIB
        self.manager: Final = ModelManager(runtime, memory_budget_bytes=budget_bytes, trial=self._trial)
        source = ArchiveSource(
            data_dir / _ARCHIVES,
            limits=ArchiveLimits(archive_bytes=pipelines.max_archive_bytes),
            allowed_paths=pipelines.allowed_paths if is_restricted else None,
            network_policy=NetworkPolicy(pipelines.allowed_networks),
            download_timeout_s=pipelines.download_timeout_seconds,
            trusted_keys=pipelines.trusted_keys,
            cache_budget_bytes=pipelines.cache_budget_mb * MIB,
        )
        self._generous = TrialLimits(_MAKING_TAKES * limits.memory_bytes, _MAKING_S)
        self.loader: Final = PipelineLoader(
            self.manager, source, convert=self._convert if models.allow_pickle else None
        )
        self.precisions: Final = precision_records(configuration)
        self.lower_precisions: Final = lower_precisions(choice, runtime.precisions)
        """What detectors may be computed in besides f32, the best first."""
        self._stopped = threading.Event()
        self._made_dir = data_dir / _MODELS / "made"

    def quantise(self, model: LoadedModel, pictures: Sequence[NDArray[np.uint8]]) -> Path:
        """Make an int8 network of a model, or find it made, by pictures as it is fed with; blocks. ModelLoadError."""
        preprocessing, (height, width, _) = model.reading.preprocessing, pictures[0].shape
        return quantise(
            model.config.path,
            pictures,
            preprocessing,
            (height, width),
            self._made_dir,
            limits=self._generous,
            stopped=self._stopped,
        )

    def _convert(self, path: Path) -> Path:
        """Make an ONNX file of a ``.pt``, or find it made."""
        with path.open("rb") as file:
            target = self._made_dir / f"{hashlib.file_digest(file, 'sha256').hexdigest()}.onnx"
        return target if target.is_file() else convert_pt(path, target, limits=self._generous, stopped=self._stopped)

    def close(self) -> None:
        """End what is done in children."""
        self._stopped.set()
        self._trial.close()


def runtime_choice(models: ModelsSettings) -> RuntimeChoice:
    """Return what runs the models on this machine; ConfigurationError: what the settings ask for is not there."""
    return runtime_here(runtime=models.runtime, device=models.device)


def lower_precisions(choice: RuntimeChoice, native: Sequence[Precision]) -> tuple[Precision, ...]:
    """Return what a runtime offers besides f32: bf16 before int8, which was never faster where there is bf16."""
    can_quantise = choice.runtime == "openvino" and find_spec("nncf") is not None
    return (*(one for one in native if one != "f32"), *(("int8",) if can_quantise else ()))


def precision_records(configuration: Configuration) -> PrecisionRecords:
    """Return what is known of precisions in a data folder."""
    return PrecisionRecords(configuration.server.data_dir / _MODELS / "precisions")
