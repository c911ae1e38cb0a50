"""What every runtime demands of a model's files, of a picture and of an answer, and the words it refuses with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.exceptions import ModelError, ModelLoadError
from detector_worker.models.runtimes.onnx_graph import refuse_hostile_graph
from detector_worker.models.runtimes.runtime import CompiledModel, Hw

__all__ = [
    "MAX_BYTES",
    "PICTURE_INPUT",
    "last_line",
    "read_contents",
    "refusal",
    "refuse_infinite",
    "refuse_picture",
    "runtime_errors",
]

MAX_BYTES: Final = 1 << 30
"""Of a file, and of all that a model computes on the way."""

PICTURE_INPUT: Final = "The worker can feed one picture input of shape [1, 3, height, width] or [1, height, width, 3]."
"""What to tell whoever exported a model with other inputs."""

_MAX_XML_BYTES: Final = 64 << 20
_LOAD_ERRORS: Final = (RuntimeError, ValueError, TypeError, AttributeError, OSError, MemoryError)


def read_contents(path: Path) -> list[bytes]:
    """Return an ONNX file, or an IR's two, read and checked: a runtime gets these bytes and no path.

    Raises:
        ModelLoadError: Too large, or something in it is refused before any runtime sees it.
        OSError: It cannot be read.
    """
    paths = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    if any(one.stat().st_size > MAX_BYTES for one in paths):
        raise refusal(path, f"is larger than {MAX_BYTES >> 20} MiB", "Is it the right file?")
    if path.suffix in {".pt", ".pth"}:
        mend = "Convert it with `detector-worker mpta convert`, or allow models.allow_pickle and install the extra "
        raise refusal(path, "is a PyTorch file, which runs code when it is loaded", f"{mend}`ultralytics`.")
    contents = [one.read_bytes() for one in paths]
    if path.suffix != ".xml":
        refuse_hostile_graph(contents[0], where=f"model {path.name}")
    elif len(contents[0]) > _MAX_XML_BYTES or b"<!DOCTYPE" in contents[0]:
        # OpenVINO expands no entities and checks every offset into the .bin; what is left is the size of its tree.
        raise refusal(path, "is no plain OpenVINO IR: too large, or with a DOCTYPE", "Convert it again.")
    return contents


def refuse_picture(image: NDArray[np.uint8], input_hw: Hw, where: str) -> None:
    """ModelError unless it has the size that the model was compiled for."""
    if image.shape != (*input_hw, 3) or image.dtype != np.uint8:
        what = f"A picture of shape {image.shape} and type {image.dtype} does not fit the model's {input_hw}"
        raise ModelError(what, where=where, mend="This is a fault of the worker: please report it.")


def refuse_infinite(compiled: CompiledModel, path: Path) -> None:
    """Ask a compiled model once; ModelLoadError where a plain grey picture does not give finite numbers."""
    try:
        answers = compiled.infer(np.full((*compiled.input_hw, 3), 114, np.uint8))
    except ModelError as exc:
        raise ModelLoadError(exc.what, where=exc.where, mend=exc.mend) from exc.__cause__
    if not all(np.isfinite(values).all() for values in answers.values()):
        mend = "Look at its weights and at the archive's input scale, mean and std."
        raise refusal(path, "answers a plain grey picture with NaN or infinity", mend)


def refusal(path: Path, what: str, mend: str) -> ModelLoadError:
    """Make the error for a model that is not taken."""
    return ModelLoadError(f"The model {what}", where=f"model {path.name}", mend=mend)


@contextmanager
def runtime_errors(path: Path, what: str, own: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn a runtime's errors, its ``own`` and the usual ones, while a model is loaded into ours."""
    errors: tuple[type[Exception], ...] = (*own, *_LOAD_ERRORS)
    try:
        yield
    except errors as exc:
        mend = "Export it again (ONNX opset 11 to 20, or OpenVINO IR with its .bin) and pack it anew."
        raise refusal(path, f"{what}: {last_line(exc)}", mend) from exc


def last_line(exc: Exception) -> str:
    """The last line of a runtime's message says most; the others name its source files."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(exc).__name__
