"""OpenVINO on the CPU.

On processors with bfloat16 it takes that precision by itself and small models lose objects, so the precision is always
said. Own threads with one blocking request each are as fast as its queue.
"""

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.exceptions import ModelError, ModelLoadError
from detector_worker.models.runtimes.onnx_graph import refuse_external_weights
from detector_worker.models.runtimes.runtime import Hw, ModelSpec, Precision, Preprocessing

__all__ = ["OpenVINORuntime"]

_MAX_BYTES: Final = 1 << 30
"""Of a file, and of all that a model computes on the way."""


class OpenVINORuntime:
    """Reads ``.onnx`` and ``.xml`` with ``.bin``, and compiles them. Thread-safe.

    Args:
        threads: Cores that inference may use, for all models together.
        requests: How many threads will call `OpenVINOModel.infer` at one time.
    """

    def __init__(self, *, threads: int, requests: int) -> None:
        # OpenVINO reports its import to its maker. None makes the reporting package fail as if it were not installed.
        sys.modules["openvino_telemetry"] = cast("Any", None)
        self._ov: Any = importlib.import_module("openvino")
        self._core = self._ov.Core()
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precisions: tuple[Precision, ...] = ("f32", "bf16") if "BF16" in capabilities else ("f32",)
        self.identity = f"openvino {self._ov.__version__}, {self._core.get_property('CPU', 'FULL_DEVICE_NAME')}"
        self._properties = {
            "NUM_STREAMS": requests,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }

    def read_spec(self, path: Path, *, input_hw: Hw) -> ModelSpec:
        with _translated(path, "could not be read"):
            model, _ = self._read(path)
            input_hw, is_dynamic = self._fix_size(model, path, input_hw)
            shapes = [
                tuple(-1 if dimension.is_dynamic else len(dimension) for dimension in output.partial_shape)
                for output in model.outputs
            ]
            notes = dict(model.get_rt_info().items()).get("framework")
            return ModelSpec(
                input_hw=input_hw,
                is_dynamic=is_dynamic,
                takes_bytes=model.inputs[0].element_type == self._ov.Type.u8,
                outputs=dict(zip(_output_names(model), shapes, strict=True)),
                metadata={key: str(note.value) for key, note in notes.items()} if isinstance(notes, dict) else {},
            )

    def compile(
        self, path: Path, preprocessing: Preprocessing, *, input_hw: Hw, precision: Precision = "f32"
    ) -> "OpenVINOModel":
        # Integer layers of a quantised model are computed as such with either hint.
        properties = self._properties | {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
        with _translated(path, "could not be compiled"):
            model, file_bytes = self._read(path)
            input_hw, _ = self._fix_size(model, path, input_hw)
            names = _output_names(model)  # compiling may rename them; their order stays
            compiled = self._core.compile_model(self._with_preprocessing(model, preprocessing), "CPU", properties)
            memory_bytes = 2 * file_bytes + _tensor_bytes(compiled.get_runtime_model())
            ready = OpenVINOModel(self._ov, compiled, names, path.name, input_hw=input_hw, memory_bytes=memory_bytes)
            answers = ready.infer(np.full((*input_hw, 3), 114, np.uint8))
        if not all(np.isfinite(values).all() for values in answers.values()):
            mend = "Look at its weights and at the archive's input scale, mean and std."
            raise _refusal(path, "answers a plain grey picture with NaN or infinity", mend)
        return ready

    def _read(self, path: Path) -> tuple[Any, int]:
        """Return the model and the size of its files; nothing but their bytes is ever read."""
        paths = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
        if any(one.stat().st_size > _MAX_BYTES for one in paths):
            raise _refusal(path, f"is larger than {_MAX_BYTES >> 20} MiB", "Is it the right file?")
        contents = [one.read_bytes() for one in paths]
        if path.suffix != ".xml":
            refuse_external_weights(contents[0], where=f"model {path.name}")
        return self._core.read_model(*contents), sum(map(len, contents))

    def _fix_size(self, model: Any, path: Path, input_hw: Hw) -> tuple[Hw, bool]:
        """Give the model's only input a fixed shape of batch 1; returns its size, and whether that was open."""
        ov, shapes = self._ov, [one.partial_shape for one in model.inputs]
        if len(shapes) == 1 and ov.PartialShape([-1, -1, -1, 3]).relaxes(shapes[0]):
            layout = "NHWC"
        elif len(shapes) == 1 and ov.PartialShape([-1, 3, -1, -1]).compatible(shapes[0]):
            layout = "NCHW"
        else:
            mend = "The worker can feed one picture input of shape [1, 3, height, width] or [1, height, width, 3]."
            raise _refusal(path, f"has {[str(shape) for shape in shapes]} as inputs", mend)
        own_hw = [shapes[0][layout.index(side)] for side in "HW"]
        height, width = (asked if own.is_dynamic else len(own) for own, asked in zip(own_hw, input_hw, strict=True))
        fixed = {"N": 1, "C": 3, "H": height, "W": width}
        model.reshape([fixed[axis] for axis in layout])
        ov.layout_helpers.set_layout(model.inputs[0], ov.Layout(layout))
        if _tensor_bytes(model) > _MAX_BYTES:
            what = "has layers that need more memory than any detector should"
            raise _refusal(path, what, "Export it with a smaller input size.")
        return (height, width), all(own.is_dynamic for own in own_hw)

    def _with_preprocessing(self, model: Any, wanted: Preprocessing) -> Any:
        """Put the conversion from uint8 BGR into the graph, before its first layer."""
        ov, stages = self._ov, importlib.import_module("openvino.preprocess")
        pipeline = stages.PrePostProcessor(model)
        picture = pipeline.input()
        picture.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        picture.tensor().set_color_format(stages.ColorFormat.BGR)
        if wanted.color == "rgb":
            picture.preprocess().convert_color(stages.ColorFormat.RGB)
        if not wanted.is_identity:
            # The graph's steps subtract, then divide: (v * scale - mean) / std = (v - mean / scale) / (std / scale).
            picture.preprocess().convert_element_type(ov.Type.f32)
            picture.preprocess().mean([value / wanted.scale for value in wanted.mean])
            picture.preprocess().scale([value / wanted.scale for value in wanted.std])
        for index in range(len(model.outputs)):
            pipeline.output(index).tensor().set_element_type(ov.Type.f32)
        return pipeline.build()


class OpenVINOModel:
    """A compiled network. Thread-safe: a calling thread gets a request of its own, which ends with it."""

    def __init__(
        self, ov: Any, compiled: Any, output_names: tuple[str, ...], file_name: str, *, input_hw: Hw, memory_bytes: int
    ) -> None:
        self.input_hw, self.memory_bytes = input_hw, memory_bytes
        self._ov, self._compiled, self._output_names = ov, compiled, output_names
        self._where = f"model {file_name}"
        self._local = threading.local()

    def infer(self, image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        if image.shape != (*self.input_hw, 3) or image.dtype != np.uint8:
            what = f"A picture of shape {image.shape} and type {image.dtype} does not fit the model's {self.input_hw}"
            raise ModelError(what, where=self._where, mend="This is a fault of the worker: please report it.")
        try:
            if not hasattr(self._local, "request"):
                self._local.request = self._compiled.create_infer_request()
            request = self._local.request
            request.set_input_tensor(self._ov.Tensor(np.ascontiguousarray(image)[np.newaxis], shared_memory=True))
            outputs = request.infer(share_outputs=True)
            # The request writes its next answer into the same memory: hand out copies.
            return {name: np.array(outputs[index], np.float32) for index, name in enumerate(self._output_names)}
        except RuntimeError as exc:
            what, mend = f"OpenVINO failed: {_last_line(exc)}", "Try it with `detector-worker run`, or export it again."
            raise ModelError(what, where=self._where, mend=mend) from exc


@contextmanager
def _translated(path: Path, what: str) -> Iterator[None]:
    """Turn the runtime's own errors into ours."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AttributeError, OSError, MemoryError) as exc:
        mend = "Export it again (ONNX opset 11 to 20, or OpenVINO IR with its .bin) and pack it anew."
        raise _refusal(path, f"{what}: {_last_line(exc)}", mend) from exc


def _refusal(path: Path, what: str, mend: str) -> ModelLoadError:
    return ModelLoadError(f"The model {what}", where=f"model {path.name}", mend=mend)


def _output_names(model: Any) -> tuple[str, ...]:
    return tuple(min(output.get_names(), default=f"output{index}") for index, output in enumerate(model.outputs))


def _tensor_bytes(model: Any) -> int:
    """Sum of all intermediate results whose shape is known: what the graph needs at most, without weights."""
    return sum(
        prod(output.shape) * output.element_type.size
        for node in model.get_ops()
        if node.get_type_name() not in {"Constant", "Const"}
        for output in node.outputs()
        if output.partial_shape.is_static
    )


def _last_line(exc: Exception) -> str:
    """The last line of OpenVINO's message says most; the others name its source files."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(exc).__name__
