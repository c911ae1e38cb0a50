"""OpenVINO on the CPU.

Three things here are not obvious. The wheel reports its own import to its maker, so the reporting package is kept
out before the first import. On processors with bfloat16 the runtime takes that precision by itself and small
models lose objects, so the precision is always said. And own threads with one blocking request each are as fast
as its queue, so that is all there is.
"""

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.exceptions import ModelError, ModelLoadError
from detector_worker.models.onnx_graph import read_onnx_metadata
from detector_worker.models.runtime import Hw, ModelSpec, Preprocessing

__all__ = ["OpenVINORuntime"]

_MAX_MODEL_BYTES: Final = 1 << 30
_MAX_TENSOR_BYTES: Final = 1 << 30
_GREY: Final = 114


def _import_openvino() -> Any:
    """Import OpenVINO with its telemetry absent; its own stand-in, which sends nothing, takes the place."""
    # None makes every later import of the package fail as if it were not installed, ours and OpenVINO's alike.
    sys.modules["openvino_telemetry"] = cast("Any", None)
    return importlib.import_module("openvino")


class OpenVINORuntime:
    """Reads ``.onnx`` and ``.xml`` with ``.bin``, and compiles them in f32. Thread-safe."""

    def __init__(self, *, threads: int, requests: int) -> None:
        """Start the runtime.

        Args:
            threads: Cores that inference may use, for all models together.
            requests: How many threads will call `OpenVINOModel.infer` at one time.
        """
        self._ov = _import_openvino()
        self._core = self._ov.Core()
        self._properties = {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": requests,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }

    def read_spec(self, path: Path, *, input_hw: Hw) -> ModelSpec:
        with _translated(path, "could not be read"):
            model, metadata, file_bytes = self._read(path)
            height, width, is_dynamic = self._fix_size(model, path, input_hw)
            return ModelSpec(
                input_hw=(height, width),
                is_dynamic=is_dynamic,
                takes_bytes=model.inputs[0].element_type == self._ov.Type.u8,
                outputs={
                    name: tuple(-1 if dimension.is_dynamic else len(dimension) for dimension in output.partial_shape)
                    for name, output in zip(_output_names(model), model.outputs, strict=True)
                },
                metadata=metadata,
                file_bytes=file_bytes,
            )

    def compile(self, path: Path, preprocessing: Preprocessing, *, input_hw: Hw) -> "OpenVINOModel":
        with _translated(path, "could not be compiled"):
            model, _, file_bytes = self._read(path)
            height, width, _ = self._fix_size(model, path, input_hw)
            names = _output_names(model)  # compiling may rename them; their order stays
            model = self._with_preprocessing(model, preprocessing)
            compiled = self._core.compile_model(model, "CPU", self._properties)
            memory_bytes = 2 * file_bytes + _tensor_bytes(compiled.get_runtime_model())
            ready = OpenVINOModel(
                self._ov,
                compiled,
                name=path.name,
                output_names=names,
                input_hw=(height, width),
                memory_bytes=memory_bytes,
            )
            answers = ready.infer(np.full((1, height, width, 3), _GREY, np.uint8))
        broken = [name for name, values in answers.items() if not np.isfinite(values).all()]
        if broken:
            raise ModelLoadError(
                f"The model answers a plain grey picture with NaN or infinity (output {broken[0]})",
                where=f"model {path.name}",
                mend="Look at its weights and at the archive's input scale, mean and std.",
            )
        return ready

    def _read(self, path: Path) -> tuple[Any, dict[str, str], int]:
        """Return the model, its metadata and the size of its files; nothing but these bytes is ever read."""
        content = _read_bytes(path)
        if path.suffix == ".onnx":
            metadata = read_onnx_metadata(content, where=f"model {path.name}")
            return self._core.read_model(content), metadata, len(content)
        if path.suffix == ".xml":
            weights = _read_bytes(path.with_suffix(".bin"))
            return self._core.read_model(content, weights), {}, len(content) + len(weights)
        raise ModelLoadError(
            f"Models of the kind {path.suffix or path.name!r} cannot be read",
            where=f"model {path.name}",
            mend="Give an .onnx file, or an OpenVINO .xml with its .bin beside it.",
        )

    def _fix_size(self, model: Any, path: Path, input_hw: Hw) -> tuple[int, int, bool]:
        """Give the model's only input a fixed shape of batch 1; returns height, width, whether they were open."""
        shape = model.inputs[0].partial_shape if len(model.inputs) == 1 else None
        channels_last = shape is not None and shape.rank.is_static and len(shape) == 4 and _is(shape[3], 3)
        if shape is None or not shape.rank.is_static or len(shape) != 4 or not (channels_last or _may_be(shape[1], 3)):
            wanted = "one picture input of shape [1, 3, height, width] or [1, height, width, 3]"
            raise ModelLoadError(
                f"The model has {[str(one.partial_shape) for one in model.inputs]} as inputs",
                where=f"model {path.name}",
                mend=f"The worker can feed {wanted}.",
            )
        open_h, open_w = (shape[1], shape[2]) if channels_last else (shape[2], shape[3])
        height = input_hw[0] if open_h.is_dynamic else len(open_h)
        width = input_hw[1] if open_w.is_dynamic else len(open_w)
        fixed = [1, height, width, 3] if channels_last else [1, 3, height, width]
        if shape.is_dynamic or list(shape.to_shape()) != fixed:
            model.reshape(fixed)
        self._ov.layout_helpers.set_layout(model.inputs[0], self._ov.Layout("NHWC" if channels_last else "NCHW"))
        if _tensor_bytes(model) > _MAX_TENSOR_BYTES:
            raise ModelLoadError(
                "The model's layers need more memory than any detector should",
                where=f"model {path.name}",
                mend="Export it with a smaller input size.",
            )
        return height, width, bool(open_h.is_dynamic and open_w.is_dynamic)

    def _with_preprocessing(self, model: Any, preprocessing: Preprocessing) -> Any:
        """Put the conversion from uint8 BGR into the graph, before its first layer."""
        ov, wanted = self._ov, preprocessing
        stages = importlib.import_module("openvino.preprocess")
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
        self, ov: Any, compiled: Any, *, name: str, output_names: tuple[str, ...], input_hw: Hw, memory_bytes: int
    ) -> None:
        self._ov, self._compiled, self._name, self._output_names = ov, compiled, name, output_names
        self._local = threading.local()
        self.input_hw = input_hw
        self.memory_bytes = memory_bytes

    def infer(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        if images.ndim != 4 or images.shape[1:] != (*self.input_hw, 3) or images.dtype != np.uint8 or not len(images):
            raise ModelError(
                f"Pictures of shape {images.shape} and type {images.dtype} do not fit the model's {self.input_hw}",
                where=f"model {self._name}",
                mend="This is a fault of the worker: please report it.",
            )
        answers = [self._infer_one(image) for image in np.ascontiguousarray(images)]
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in self._output_names}

    def _infer_one(self, image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        try:
            request = getattr(self._local, "request", None)
            if request is None:
                request = self._local.request = self._compiled.create_infer_request()
            request.set_input_tensor(self._ov.Tensor(image[np.newaxis], shared_memory=True))
            outputs = request.infer(share_outputs=True)
            # The request writes its next answer into the same memory: hand out copies.
            return {name: np.array(outputs[index], np.float32) for index, name in enumerate(self._output_names)}
        except RuntimeError as exc:
            raise ModelError(
                f"OpenVINO failed: {_first_line(exc)}",
                where=f"model {self._name}",
                mend="Try the model with `detector-worker run` on one picture; export it again if it fails there too.",
            ) from exc


@contextmanager
def _translated(path: Path, what: str) -> Iterator[None]:
    """Turn the runtime's own errors into ours."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, OSError, MemoryError) as exc:
        raise ModelLoadError(
            f"The model {what}: {_first_line(exc)}",
            where=f"model {path.name}",
            mend="Export it again (ONNX opset 11 to 20, or OpenVINO IR) and pack it anew.",
        ) from exc


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_MODEL_BYTES:
            raise ModelLoadError(
                f"The file is larger than {_MAX_MODEL_BYTES >> 20} MiB",
                where=f"model {path.name}",
                mend="Detectors are far smaller: is it the right file?",
            )
        return path.read_bytes()
    except OSError as exc:
        raise ModelLoadError(
            f"The file cannot be read: {exc.strerror}", where=f"model {path.name}", mend="Pack the archive anew."
        ) from exc


def _output_names(model: Any) -> tuple[str, ...]:
    return tuple(min(output.get_names(), default=f"output{index}") for index, output in enumerate(model.outputs))


def _is(dimension: Any, size: int) -> bool:
    return dimension.is_static and len(dimension) == size


def _may_be(dimension: Any, size: int) -> bool:
    return dimension.is_dynamic or len(dimension) == size


def _tensor_bytes(model: Any) -> int:
    """Sum of all intermediate results whose shape is known: what the graph needs at most, without weights."""
    return sum(
        int(np.prod(output.shape, dtype=np.int64)) * output.element_type.size
        for node in model.get_ops()
        if node.get_type_name() not in {"Constant", "Const"}
        for output in node.outputs()
        if output.partial_shape.is_static
    )


def _first_line(exc: Exception) -> str:
    """The last line of OpenVINO's message says most; the others name its source files."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(exc).__name__
