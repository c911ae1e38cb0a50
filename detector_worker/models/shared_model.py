"""One network in memory, and one user's hold on it."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pydantic import ValidationError

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.model_reading import ModelReading
from detector_worker.models.pipeline_config import BranchConfig, ModelSettings
from detector_worker.models.runtimes.runtime import (
    CompiledModel,
    Hw,
    InferenceRuntime,
    ModelSpec,
    Precision,
    Preprocessing,
)

__all__ = ["LoadedModel", "ModelConfig", "SharedModel"]

_DETECTOR_HW: Final = (384, 640)  # of the usual 16:9 camera
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
        """Take the model's part of a pipeline or a branch; ModelLoadError: its keys are missing or wrong."""
        try:
            settings = ModelSettings.model_validate(dict(data), extra="ignore")
        except ValidationError as exc:
            wrong = sorted({str(error["loc"][0]) for error in exc.errors(include_input=False)})
            what, mend = f"The model's settings are wrong: {', '.join(wrong)}", "Correct them in pipeline.json."
            raise ModelLoadError(what, where=f"model {data.get('modelId', '?')}", mend=mend) from exc
        return cls(folder / settings.model_file, settings)

    @property
    def open_hw(self) -> Hw:
        """The input size at which the model is looked at where it leaves its own open."""
        settings = self.settings
        if isinstance(settings, BranchConfig) and settings.resize_target is not None:
            return settings.resize_target[1], settings.resize_target[0]
        return _DETECTOR_HW if settings.model_type == "detection" else _CLASSIFIER_HW


class SharedModel:
    """One network, compiled for each input size that somebody needs. Thread-safe but for ``holds``.

    Args:
        runtime: What compiles it.
        path: The model file.
        preprocessing: Is part of what is compiled.
        precision: Is part of what is compiled.
        measured_bytes: What its first compiled form was seen to take; None: the runtime's estimate counts.
    """

    def __init__(
        self,
        runtime: InferenceRuntime,
        path: Path,
        preprocessing: Preprocessing,
        *,
        precision: Precision = "f32",
        measured_bytes: int | None = None,
    ) -> None:
        self.holds = 0
        self.precision: Final = precision
        self._runtime, self._path, self._preprocessing = runtime, path, preprocessing
        self._measured_bytes = measured_bytes
        self._lock = threading.Lock()
        self._compiled: dict[Hw, CompiledModel] = {}

    @property
    def memory_bytes(self) -> int:
        """Of all compiled forms: the first as it was measured, the others in proportion."""
        estimates = [compiled.memory_bytes for compiled in tuple(self._compiled.values())]
        if self._measured_bytes is None or not estimates:
            return sum(estimates)
        return round(sum(estimates) * self._measured_bytes / max(1, estimates[0]))

    def is_compiled(self, input_hw: Hw) -> bool:
        """Whether `compiled` returns at once."""
        return self._size_for(input_hw) in self._compiled

    def compiled(self, input_hw: Hw) -> CompiledModel:
        """Return the network for an input size, compiled at the first call.

        Each size costs memory: past the first few comes the square that holds any picture.
        """
        if (found := self._compiled.get(input_hw)) is not None:
            return found
        with self._lock:
            size = self._size_for(input_hw)
            if size not in self._compiled:
                self._compiled[size] = self._runtime.compile(
                    self._path, self._preprocessing, input_hw=size, precision=self.precision
                )
            return self._compiled[size]

    def compile_as(self, other: "SharedModel") -> None:
        """Compile for every input size that another network has; blocks."""
        for input_hw in tuple(other._compiled):
            self.compiled(input_hw)

    def _size_for(self, input_hw: Hw) -> Hw:
        is_one_more = input_hw not in self._compiled and len(self._compiled) >= _MAX_SHAPES
        return (max(input_hw), max(input_hw)) if is_one_more else input_hw


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """One user's hold on a network, until `ModelManager.unload_model`."""

    config: ModelConfig
    content_sha256: str
    spec: ModelSpec
    reading: ModelReading
    shared: SharedModel

    @property
    def settings(self) -> ModelSettings:
        """What the archive says of it."""
        return self.config.settings

    @property
    def model_id(self) -> str:
        """As the archive names it."""
        return self.settings.model_id

    def input_hw_for(self, source_wh: tuple[int, int]) -> Hw:
        """Return the input size that suits pictures of a size.

        A detector of open size gets the picture's proportions: the long side as it was trained, the short one rounded
        up to a multiple of 32. One that was trained on stretched pictures gets the square.
        """
        if not self.spec.is_dynamic or self.settings.model_type != "detection":
            return self.spec.input_hw
        if self.reading.letterbox == "none":
            return self.reading.long_side_px, self.reading.long_side_px
        scale = self.reading.long_side_px / max(source_wh)
        width, height = (max(1, -(-round(side * scale) // _STEP_PX)) * _STEP_PX for side in source_wh)
        return height, width

    def is_ready_for(self, source_wh: tuple[int, int]) -> bool:
        """Whether `compiled_for` returns at once for pictures of a size."""
        return self.shared.is_compiled(self.input_hw_for(source_wh))

    def compiled_for(self, source_wh: tuple[int, int]) -> CompiledModel:
        """Return the network in the input size that suits pictures of a size; may compile, which takes a moment."""
        return self.shared.compiled(self.input_hw_for(source_wh))
