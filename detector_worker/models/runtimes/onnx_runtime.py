"""ONNX Runtime: for accelerators, and on the CPU as an equal in results to OpenVINO.

It has no way to put the conversion from a picture into the graph, so that is done before.
"""

import importlib
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pynvml
from numpy.typing import NDArray

from detector_worker.core.exceptions import ConfigurationError, ModelError
from detector_worker.models.runtimes.model_checks import (
    PICTURE_INPUT,
    last_line,
    read_contents,
    refusal,
    refuse_infinite,
    refuse_picture,
    runtime_errors,
)
from detector_worker.models.runtimes.runtime import Hw, ModelSpec, Outputs, Precision, Preprocessing

__all__ = ["PROVIDERS", "Device", "OnnxRuntime", "import_onnxruntime", "nvidia_card"]

Device = Literal["cpu", "cuda", "tensorrt", "coreml"]
_CUDA: Final = {"arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}  # or "f32" would be less than that
PROVIDERS: Final[dict[Device, dict[str, dict[str, str]]]] = {
    "tensorrt": {"TensorrtExecutionProvider": {}, "CUDAExecutionProvider": _CUDA, "CPUExecutionProvider": {}},
    "cuda": {"CUDAExecutionProvider": _CUDA, "CPUExecutionProvider": {}},
    "coreml": {"CoreMLExecutionProvider": {}, "CPUExecutionProvider": {}},
    "cpu": {"CPUExecutionProvider": {}},
}
"""What runs a graph on each device, the fastest device first; what the first cannot run goes to the next."""
_INPUT_KINDS: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class OnnxRuntime:
    """Reads ``.onnx`` and compiles it. Thread-safe.

    Args:
        device: Where it computes.
        threads: Cores that inference may use, for one model.
        requests: How many threads will call `OnnxModel.infer` at one time.

    Raises:
        ConfigurationError: ONNX Runtime is not installed, or this build has nothing for the device.
    """

    precisions: tuple[Precision, ...] = ("f32",)

    def __init__(self, *, device: Device, threads: int, requests: int) -> None:
        self._ort = import_onnxruntime()
        if device in {"cuda", "tensorrt"}:
            self._ort.preload_dlls()  # those that pip brought, which no linker's path knows
        self._providers = PROVIDERS[device]
        if next(iter(self._providers)) not in (available := self._ort.get_available_providers()):
            what = f"ONNX Runtime has nothing for the device {device} here, only {', '.join(available)}"
            mend = "Install the extra `gpu` in place of the package onnxruntime, or set models.device to auto."
            raise ConfigurationError(what, where="models.device", mend=mend)
        own = vars(importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")).values()
        own_errors = tuple(one for one in own if isinstance(one, type) and issubclass(one, Exception))
        self._errors: tuple[type[Exception], ...] = (*own_errors, RuntimeError, ValueError)
        self._threads_per_call = max(1, threads // requests)
        self.version = str(self._ort.__version__)
        machine = nvidia_card() if "CUDAExecutionProvider" in self._providers else _processor()
        self.identity = f"onnxruntime {self.version}, {device}, {machine}"

    def read_spec(self, path: Path, *, input_hw: Hw) -> ModelSpec:
        with runtime_errors(path, "could not be read", self._errors):
            session, picture = self._session(path, input_hw, level="ORT_ENABLE_BASIC")
            return ModelSpec(
                input_hw=picture.input_hw,
                is_dynamic=picture.is_open,
                takes_bytes=picture.dtype is np.uint8,
                outputs={
                    one.name: tuple(side if isinstance(side, int) else -1 for side in one.shape)
                    for one in session.get_outputs()
                },
                metadata=dict(session.get_modelmeta().custom_metadata_map),
            )

    def compile(
        self, path: Path, preprocessing: Preprocessing, *, input_hw: Hw, precision: Precision = "f32"
    ) -> "OnnxModel":
        with runtime_errors(path, "could not be compiled", self._errors):
            session, picture = self._session(path, input_hw, level="ORT_ENABLE_ALL")
            memory_bytes = 2 * path.stat().st_size
            compiled = OnnxModel(session, picture, preprocessing, path.name, self._errors, memory_bytes=memory_bytes)
            refuse_infinite(compiled, path)
        return compiled

    def _session(self, path: Path, input_hw: Hw, *, level: str) -> tuple[Any, "_PictureInput"]:
        """Open a model with every size fixed, so that memory does not grow with what is asked."""
        if path.suffix == ".xml":
            mend = "Set models.runtime to openvino, or pack the model as ONNX."
            raise refusal(path, "is an OpenVINO IR, which ONNX Runtime does not read", mend)
        content = read_contents(path)[0]
        session = self._opened(content, level="ORT_DISABLE_ALL", sizes={})
        picture, sizes = _picture_input(path, session.get_inputs(), input_hw)
        if not all(one.type.startswith("tensor(") for one in session.get_outputs()):
            raise refusal(path, "answers with something else than arrays", "Export it without ZipMap.")
        return self._opened(content, level=level, sizes=sizes), picture

    def _opened(self, content: bytes, *, level: str, sizes: dict[str, int]) -> Any:
        options = self._ort.SessionOptions()
        options.graph_optimization_level = getattr(self._ort.GraphOptimizationLevel, level)
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads_per_call, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would starve the readers
        options.enable_cpu_mem_arena = False  # it keeps the peak for ever
        options.log_severity_level = 4
        for name, size in sizes.items():
            options.add_free_dimension_override_by_name(name, size)
        providers = list(self._providers.items())
        session = self._ort.InferenceSession(content, options, providers=providers)
        if session.get_providers()[0] != providers[0][0]:  # it goes on with the CPU, and nobody would know why slowly
            raise RuntimeError(f"{providers[0][0]} could not be started: see to its driver and libraries")
        return session


class _PictureInput(NamedTuple):
    """The only input of a model, which takes a picture."""

    name: str
    dtype: Any
    layout: str
    input_hw: Hw
    is_open: bool


def _picture_input(path: Path, inputs: Any, input_hw: Hw) -> tuple[_PictureInput, dict[str, int]]:
    """Return the input, and the sizes of the dimensions that the model leaves open, by name."""
    shapes = [tuple(one.shape) for one in inputs]
    is_picture = len(inputs) == 1 and len(shapes[0]) == 4 and inputs[0].type in _INPUT_KINDS
    if is_picture and shapes[0][3] == 3:
        layout = "NHWC"
    elif is_picture and (shapes[0][1] == 3 or not isinstance(shapes[0][1], int)):
        layout = "NCHW"
    else:
        raise refusal(path, f"has {[list(shape) for shape in shapes]} as inputs", PICTURE_INPUT)
    own_hw = [shapes[0][layout.index(side)] for side in "HW"]
    height, width = (own if isinstance(own, int) else asked for own, asked in zip(own_hw, input_hw, strict=True))
    fixed = {"N": 1, "C": 3, "H": height, "W": width}
    sizes: dict[str, int] = {}
    for axis, own in zip(layout, shapes[0], strict=True):
        size = sizes.setdefault(own, fixed[axis]) if isinstance(own, str) else own or fixed[axis]
        if size != fixed[axis]:
            raise refusal(path, f"has {[list(shape) for shape in shapes]} as inputs", PICTURE_INPUT)
    is_open = not any(isinstance(side, int) for side in own_hw)
    return _PictureInput(inputs[0].name, _INPUT_KINDS[inputs[0].type], layout, (height, width), is_open), sizes


class OnnxModel:
    """A compiled network. Thread-safe: a session is, and nothing else is shared."""

    def __init__(
        self,
        session: Any,
        picture: _PictureInput,
        preprocessing: Preprocessing,
        file_name: str,
        errors: tuple[type[Exception], ...],
        *,
        memory_bytes: int,
    ) -> None:
        self.input_hw, self.memory_bytes = picture.input_hw, memory_bytes
        self._session, self._picture, self._errors = session, picture, errors
        self._where, self._preprocessing = f"model {file_name}", preprocessing
        self._output_names = [one.name for one in session.get_outputs()]

    @property
    def computed_in(self) -> dict[str, int]:
        return {}

    def infer(self, image: NDArray[np.uint8]) -> Outputs:
        refuse_picture(image, self.input_hw, self._where)
        try:
            answers = self._session.run(self._output_names, {self._picture.name: self._fed(image)})
            return {name: np.asarray(a, np.float32) for name, a in zip(self._output_names, answers, strict=True)}
        except self._errors as exc:
            mend = "Try it with `detector-worker run`, or export it again."
            raise ModelError(f"ONNX Runtime failed: {last_line(exc)}", where=self._where, mend=mend) from exc

    def _fed(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the picture as the model wants it, shape (1, 3, H, W) or (1, H, W, 3)."""
        planes = self._preprocessing.planes(image)
        fed = planes if self._picture.layout == "NCHW" else planes.transpose(1, 2, 0)
        return np.ascontiguousarray(fed[np.newaxis], self._picture.dtype)


def import_onnxruntime() -> Any:
    """Import the package so that it reports nothing to its maker.

    Since 1.29 it does on every system, from the import on unless a variable says otherwise; on Windows a call does.

    Raises:
        ConfigurationError: It is not installed.
    """
    os.environ |= {"ORT_DISABLE_TELEMETRY": "1", "ORT_TELEMETRY_DISABLED": "1"}
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as exc:
        mend = "Install the extra `gpu`, or set models.runtime to openvino."
        raise ConfigurationError("ONNX Runtime is not installed", where="models.runtime", mend=mend) from exc
    ort.disable_telemetry_events()
    return ort


def nvidia_card() -> str | None:
    """Return the name of the first NVIDIA card, None where there is none or no driver for it."""
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
    return None


def _processor() -> str:
    """Name the processor as exactly as the system does: what was measured on one is not another's."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part")))
    return platform.processor() or platform.machine()
