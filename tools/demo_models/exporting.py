"""From a trained network to one ONNX file that answers the same."""

import importlib
import io
import warnings
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
import torch
from torch import nn

__all__ = ["export_onnx"]

_OPSET: Final = 17
_TOLERANCE: Final = 1e-3


def export_onnx(network: nn.Module, input_hw: tuple[int, int], name: str, names: Mapping[int, str]) -> bytes:
    """Export for one picture at a time, weights inside; the names of its classes are noted in the file.

    Raises:
        RuntimeError: OpenVINO's answers to the file differ from the network's.
    """
    network = network.eval().to(memory_format=torch.contiguous_format)
    picture = torch.rand(1, 3, *input_hw, generator=torch.Generator().manual_seed(0))
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The newer exporter puts the weights beside the file and needs a further package.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (picture,), buffer, dynamo=False, opset_version=_OPSET,
            input_names=["images"], output_names=["output"],
        )  # fmt: skip
    model = onnx.load_from_string(buffer.getvalue())
    model.graph.name = f"demo_{name}"
    onnx.helper.set_model_props(model, {"names": str(dict(names))})
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    with torch.no_grad():
        _compare(content, picture.numpy(), network(picture).numpy(), name)
    return content


def _compare(content: bytes, picture: Any, wanted: Any, name: str) -> None:
    openvino = importlib.import_module("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answer = compiled(picture)[0]
    if not np.allclose(answer, wanted, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise RuntimeError(f"{name}: the exported file's answers are off by up to {np.abs(answer - wanted).max():.2g}")
