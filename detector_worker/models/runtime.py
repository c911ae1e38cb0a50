"""The seam between the worker and whatever runs a network.

A runtime gets pictures as they are, uint8 BGR; colour order, scale, mean and std are part of the compiled graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["CompiledModel", "InferenceRuntime", "ModelSpec", "Preprocessing"]

Hw = tuple[int, int]


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
        return self.scale == 1 and self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model file says of itself, seen at one input size.

    Attributes:
        input_hw: The size at which ``outputs`` were computed: the model's own, or the one asked for.
        is_dynamic: Whether other sizes may be asked for.
        takes_bytes: Whether the model wants 0..255 as bytes, so that it scales by itself.
        outputs: Shape by name, in the model's order; -1 where a size depends on the content.
        metadata: What the exporter noted beside the graph, such as ``names`` of the classes.
        file_bytes: Size of the file or files.
    """

    input_hw: Hw
    is_dynamic: bool
    takes_bytes: bool
    outputs: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    file_bytes: int


class CompiledModel(Protocol):
    """A network ready to run at one input size. Thread-safe: each calling thread has its own request."""

    @property
    def input_hw(self) -> Hw:
        """Height and width of the pictures that it takes."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Estimated size in memory."""
        ...

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Run the network; blocks the calling thread.

        Args:
            images: Shape (N, H, W, 3), uint8 BGR, with H and W as ``input_hw``.

        Returns:
            By output name, float32, first axis N; the arrays are the caller's own.

        Raises:
            ModelError: The runtime failed, or the shape is another.
        """
        ...


class InferenceRuntime(Protocol):
    """Reads and compiles model files. Thread-safe."""

    def read_spec(self, path: Path, *, input_hw: Hw) -> ModelSpec:
        """Read what a model says of itself; ``input_hw`` counts where the model leaves its size open.

        Raises:
            ModelLoadError: The file is missing, refused, or no model that this runtime understands.
        """
        ...

    def compile(self, path: Path, preprocessing: Preprocessing, *, input_hw: Hw) -> CompiledModel:
        """Compile for one input size, and see that a test picture gives finite numbers.

        Raises:
            ModelLoadError: As `read_spec`; or it cannot be compiled, or answers with NaN or infinity.
        """
        ...
