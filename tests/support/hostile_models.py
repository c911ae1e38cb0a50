"""ONNX files of a few bytes that mean harm to whoever loads them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SQUARE = [1, 3, 8, 8]
"""The input of all of them."""


def weights_bomb() -> bytes:
    """Build a convolution whose kernels, 0.8 GB of them, are one number repeated."""
    nodes = [_node("ConstantOfShape", "shape", "kernels"), _node("Conv", "x kernels", "y")]
    return _model(nodes, shape=[1_000_000, 3, 8, 8])


def repetition_bomb() -> bytes:
    """Build a layer of 11 GB that only repeats a number."""
    nodes = [
        _node("ConstantOfShape", "shape", "huge"),
        _node("ReduceMean", "huge", "mean"),
        _node("Add", "mean x", "y"),
    ]
    return _model(nodes, shape=[1, 3, 30_000, 30_000])


def endless_loop() -> bytes:
    """Build a loop of 2 ** 40 rounds, which the first picture enters."""
    kinds = {"round": TensorProto.INT64, "on": TensorProto.BOOL, "still": TensorProto.BOOL}
    values = {name: helper.make_tensor_value_info(name, kind, []) for name, kind in kinds.items()}
    values |= {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, SQUARE) for name in ("v", "w")}
    body = helper.make_graph(
        [_node("Sin", "v", "w"), _node("Identity", "on", "still")],
        "body",
        [values[name] for name in ("round", "on", "v")],
        [values[name] for name in ("still", "w")],
    )
    nodes = [helper.make_node("Loop", ["rounds", "true", "x"], ["y"], body=body)]
    return _model(nodes, rounds=2**40, true=True)


def stolen_weights(path: Path) -> Path:
    """Write a model whose weights lie in a file beside it."""
    model = onnx.load_from_string(_model([_node("Add", "x weights", "y")], weights=np.ones(SQUARE, np.float32)))
    onnx.save(model, str(path), save_as_external_data=True, location="secret.bin", size_threshold=0)
    return path


def _node(kind: str, inputs: str, output: str) -> Any:
    return helper.make_node(kind, inputs.split(), [output])


def _model(nodes: list[Any], **constants: Any) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SQUARE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
