"""The seam between the worker and whatever runs a network.

A runtime gets pictures as they are, uint8 BGR; colour order, scale, mean and std are part of the compiled graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["CompiledModel", "Hw", "InferenceRuntime", "ModelSpec", "Outputs", "Precision", "Preprocessing"]

Hw = tuple[int, int]
Precision = Literal["f32", "bf16", "int8"]
"""In which numbers a network is computed; int8 means one that was quantised."""
Outputs = dict[str, NDArray[np.float32]]
"""By output name, first axis 1."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What happens to a pixel before the first layer: ``(value * scale - mean) / std``, in the order of ``color``."""

    color: Literal["rgb", "bgr"] = "bgr"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def is_identity(self) -> bool:
        """Whether values stay what they are."""
        return self == Preprocessing(self.color)

    def planes(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Do it to a picture, shape (H, W, 3), BGR; returns shape (3, H, W), for what cannot have it in the graph."""
        values = np.arange(256, dtype=np.float64)[:, np.newaxis] * self.scale
        tables = ((values - self.mean) / self.std).T.astype(np.float32)
        planes, colours = np.empty((3, *image.shape[:2]), np.float32), cv2.split(image)
        for plane, colour, table in zip(planes, colours if self.color == "bgr" else colours[::-1], tables, strict=True):
            cv2.LUT(colour, table, dst=plane)
        return planes


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model file says of itself, seen at one input size."""

    input_hw: Hw
    """The model's own, or the one that was asked for."""
    is_dynamic: bool
    """Whether other sizes may be asked for."""
    takes_bytes: bool
    """Whether it wants 0..255 as bytes, and scales by itself."""
    outputs: Mapping[str, tuple[int, ...]]
    """Shape by name, in the model's order; -1 where a size depends on the content."""
    metadata: Mapping[str, str]
    """What the exporter noted beside the graph, such as ``names`` of the classes."""


class CompiledModel(Protocol):
    """A network ready to run at one input size. Thread-safe: each calling thread has its own request."""

    @property
    def input_hw(self) -> Hw: ...

    @property
    def memory_bytes(self) -> int: ...

    @property
    def computed_in(self) -> Mapping[str, int]:
        """How many of its heavy layers really compute in which type (``{"f32": 3, "bf16": 110}``); empty: not told."""
        ...

    def infer(self, image: NDArray[np.uint8]) -> Outputs:
        """Run the network on a picture, shape (H, W, 3), BGR; blocks. ModelError: the runtime failed."""
        ...


class InferenceRuntime(Protocol):
    """Reads and compiles model files; what is missing, refused or not understood is a ModelLoadError. Thread-safe."""

    @property
    def identity(self) -> str:
        """Its name and version, and the device, in one line: what was found out with one holds for no other."""
        ...

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What this machine computes natively, f32 first."""
        ...

    def read_spec(self, path: Path, *, input_hw: Hw) -> ModelSpec:
        """Read what a model says of itself; ``input_hw`` counts where the model leaves its size open."""
        ...

    def compile(
        self, path: Path, preprocessing: Preprocessing, *, input_hw: Hw, precision: Precision = "f32"
    ) -> CompiledModel:
        """Compile for one input size, and see that a test picture gives finite numbers."""
        ...
