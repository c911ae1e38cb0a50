"""OpenVINO on the CPU.

On processors with bfloat16 it takes that precision by itself and small models lose objects, so the precision is always
said. Own threads with one blocking request each are as fast as its queue.
"""

import hashlib
import importlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.exceptions import ModelError
from detector_worker.models.runtimes.compiled_cache import CompiledCache
from detector_worker.models.runtimes.model_checks import (
    PICTURE_INPUT,
    last_line,
    read_contents,
    refusal,
    refuse_infinite,
    refuse_picture,
    runtime_errors,
)
from detector_worker.models.runtimes.runtime import Hw, ModelSpec, Precision, Preprocessing

__all__ = ["OpenVINORuntime", "import_openvino"]

_MAX_TENSOR_BYTES: Final = 4 << 30
"""Of all results on the way together, of which few exist at a time: RT-DETR-l has 1.8 GiB."""
_HEAVY_LAYERS: Final = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNSeq", "RNNCell"})
"""Where a network's time goes; the others mostly move numbers."""


class OpenVINORuntime:
    """Reads ``.onnx`` and ``.xml`` with ``.bin``, and compiles them. Thread-safe.

    Args:
        threads: Cores that inference may use, for all models together.
        requests: How many threads will call `OpenVINOModel.infer` at one time.
        cache: Where compiled models are kept from one start to the next.
    """

    def __init__(self, *, threads: int, requests: int, cache: CompiledCache | None = None) -> None:
        self._ov = import_openvino()
        self._core = self._ov.Core()
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precisions: tuple[Precision, ...] = ("f32", "bf16") if "BF16" in capabilities else ("f32",)
        self.version = str(self._ov.__version__)
        self.identity = f"openvino {self.version}, {self._core.get_property('CPU', 'FULL_DEVICE_NAME')}"
        self._cache, self._capabilities = cache, capabilities
        self._properties = {
            "NUM_STREAMS": requests,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }

    def read_spec(self, path: Path, *, input_hw: Hw) -> ModelSpec:
        with runtime_errors(path, "could not be read"):
            model = self._core.read_model(*read_contents(path))
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
        with runtime_errors(path, "could not be compiled"):
            contents = read_contents(path)
            key = f"{_sha256(contents)} {preprocessing} {input_hw} {properties} {self.identity} {self._capabilities}"
            found = self._import(key, properties) if self._cache is not None else None
            compiled, names = found or self._compile(
                path, contents, preprocessing, input_hw=input_hw, properties=properties, key=key
            )
            memory_bytes = 2 * sum(map(len, contents)) + _tensor_bytes(compiled.get_runtime_model())
            ready = OpenVINOModel(self._ov, compiled, names, path.name, memory_bytes=memory_bytes)
            refuse_infinite(ready, path)
        return ready

    def _compile(
        self,
        path: Path,
        contents: Sequence[bytes],
        preprocessing: Preprocessing,
        *,
        input_hw: Hw,
        properties: Mapping[str, Any],
        key: str,
    ) -> tuple[Any, list[str]]:
        """Return the compiled model and the names of its outputs, and keep both for the next start."""
        model = self._core.read_model(*contents)
        self._fix_size(model, path, input_hw)
        names = _output_names(model)  # compiling may rename them; their order stays
        compiled = self._core.compile_model(self._with_preprocessing(model, preprocessing), "CPU", properties)
        if self._cache is not None:
            self._cache.store(key, json.dumps(names).encode() + b"\n" + compiled.export_model().getvalue())
        return compiled, names

    def _import(self, key: str, properties: Mapping[str, Any]) -> tuple[Any, list[str]] | None:
        """As `_compile`, from what was kept."""
        if self._cache is None or (kept := self._cache.load(key)) is None:
            return None
        names, _, blob = kept.partition(b"\n")
        try:
            return self._core.import_model(blob, "CPU", properties), json.loads(names)
        except (RuntimeError, ValueError):  # kept by an OpenVINO that calls itself by the same name
            return None

    def _fix_size(self, model: Any, path: Path, input_hw: Hw) -> tuple[Hw, bool]:
        """Give the model's only input a fixed shape of batch 1; returns its size, and whether that was open."""
        ov, shapes = self._ov, [one.partial_shape for one in model.inputs]
        if len(shapes) == 1 and ov.PartialShape([-1, -1, -1, 3]).relaxes(shapes[0]):
            layout = "NHWC"
        elif len(shapes) == 1 and ov.PartialShape([-1, 3, -1, -1]).compatible(shapes[0]):
            layout = "NCHW"
        else:
            raise refusal(path, f"has {[str(shape) for shape in shapes]} as inputs", PICTURE_INPUT)
        own_hw = [shapes[0][layout.index(side)] for side in "HW"]
        height, width = (asked if own.is_dynamic else len(own) for own, asked in zip(own_hw, input_hw, strict=True))
        fixed = {"N": 1, "C": 3, "H": height, "W": width}
        model.reshape([fixed[axis] for axis in layout])
        ov.layout_helpers.set_layout(model.inputs[0], ov.Layout(layout))
        if _tensor_bytes(model) > _MAX_TENSOR_BYTES:
            what = "has layers that need more memory than any detector should"
            raise refusal(path, what, "Export it with a smaller input size.")
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


def import_openvino() -> Any:
    """Import OpenVINO, which would report that to its maker: None makes the reporting package fail as if absent."""
    sys.modules["openvino_telemetry"] = cast("Any", None)
    return importlib.import_module("openvino")


class OpenVINOModel:
    """A compiled network. Thread-safe: a calling thread gets a request of its own, which ends with it."""

    def __init__(
        self, ov: Any, compiled: Any, output_names: Sequence[str], file_name: str, *, memory_bytes: int
    ) -> None:
        _, height, width, _ = compiled.inputs[0].shape
        self.input_hw, self.memory_bytes = (height, width), memory_bytes
        self._ov, self._compiled, self._output_names = ov, compiled, output_names
        self._where = f"model {file_name}"
        self._local = threading.local()

    @property
    def computed_in(self) -> dict[str, int]:
        layers = [node.get_rt_info() for node in self._compiled.get_runtime_model().get_ops()]
        heavy = [layer for layer in layers if "layerType" in layer and layer["layerType"].value in _HEAVY_LAYERS]
        return dict(Counter(str(layer["runtimePrecision"].value) for layer in heavy))

    def infer(self, image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        refuse_picture(image, self.input_hw, self._where)
        try:
            if not hasattr(self._local, "request"):
                self._local.request = self._compiled.create_infer_request()
            request = self._local.request
            request.set_input_tensor(self._ov.Tensor(np.ascontiguousarray(image)[np.newaxis], shared_memory=True))
            outputs = request.infer(share_outputs=True)
            # The request writes its next answer into the same memory: hand out copies.
            return {name: np.array(outputs[index], np.float32) for index, name in enumerate(self._output_names)}
        except RuntimeError as exc:
            what, mend = f"OpenVINO failed: {last_line(exc)}", "Try it with `detector-worker run`, or export it again."
            raise ModelError(what, where=self._where, mend=mend) from exc


def _sha256(contents: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _output_names(model: Any) -> list[str]:
    return [min(output.get_names(), default=f"output{index}") for index, output in enumerate(model.outputs)]


def _tensor_bytes(model: Any) -> int:
    """Sum of all intermediate results whose shape is known: what the graph needs at most, without weights."""
    return sum(
        prod(output.shape) * output.element_type.size
        for node in model.get_ops()
        if node.get_type_name() not in {"Constant", "Const"}
        for output in node.outputs()
        if output.partial_shape.is_static
    )
