"""Model files that are wrong on purpose, each in one way; most are of a few hundred bytes."""

import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper, numpy_helper
from support.hostile_models import endless_loop, repetition_bomb, weights_bomb
from support.tiny_models import tiny_classifier, tiny_detector

__all__ = ["crafted_models", "intermediate_representation"]

_SHAPE: Final = [1, 3, 8, 8]


def crafted_models() -> dict[str, dict[str, bytes]]:
    """Return for each fault the files of an archive; the first is the model."""
    ir = intermediate_representation(tiny_classifier())
    xml, weights = ir["model.xml"], ir["model.bin"]
    onnx_files = {
        "empty": b"",
        "one byte": b"\x08",
        "text": b"this is no model",
        "a ZIP": b"PK\3\4" + bytes(100),
        "cut": tiny_detector()[:-200],
        "doubled": tiny_detector() * 2,
        "external data": _external("secret.bin"),
        "external data elsewhere": _external("../../../../etc/passwd"),
        "external data in a constant": _constant_outside(),
        "giant input": _model([_node("Identity", "x", "y")], shape=[1, 3, 2**31 - 1, 2**31 - 1]),
        "giant output": _model(
            [_node("ReduceMean", "x", "m"), _node("Expand", "m to", "y")], to=np.array([1, 3, 2**20, 2**20], np.int64)
        ),
        "negative sizes": _model([_node("Identity", "x", "y")], shape=[1, 3, -5, -7]),
        "no channels": _model([_node("Identity", "x", "y")], shape=[1, 0, 8, 8]),
        "nine dimensions": _model([_node("Identity", "x", "y")], shape=[1] * 9),
        "huge initializer dims": _claimed(2**40),
        "initializer dims that overflow": _claimed(2**62, 2**62, 4),
        "negative initializer dims": _claimed(-1),
        "65 bytes for a gigabyte": _claimed(2**28),
        "deep subgraphs": _nested_ifs(25),
        "very deep subgraphs": _deep_messages(5000),
        "cyclic graph": _model([_node("Add", "x b", "a"), _node("Add", "a x", "b"), _node("Identity", "b", "y")]),
        "node that feeds itself": _model([_node("Add", "x y", "y")]),
        "input that nobody gives": _model([_node("Add", "x absent", "y")]),
        "output that nobody makes": _model([_node("Identity", "x", "other")]),
        "no nodes": _model([]),
        "function that calls itself": _recursive_function(),
        "opset of the future": _model([_node("Identity", "x", "y")], opset=9999),
        "opset nought": _model([_node("Identity", "x", "y")], opset=0),
        "domain of nobody": _model([helper.make_node("Evil", ["x"], ["y"], domain="com.example")]),
        "unknown node": _model([_node("DoAsYouLike", "x", "y")]),
        "loop without end": endless_loop(),
        "scan over too much": _scan(),
        "weights bomb": weights_bomb(),
        "repetition bomb": repetition_bomb(),
        "division by nought": _model([_node("Div", "x zero", "y")], zero=np.float32(0)),
        "stride nought": _model([helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[0, 0])]),
        "giant kernel": _model([helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2**31, 2**31])]),
        "giant padding": _model([helper.make_node("Pad", ["x", "pads"], ["y"])], pads=np.array([2**33] * 8, np.int64)),
        "giant range": _model(
            [_node("Range", "a b c", "r"), _node("ReduceSum", "r", "s"), _node("Add", "x s", "y")],
            a=np.float32(0),
            b=np.float32(2**50),
            c=np.float32(1),
        ),
        "names with newlines": _model([_node("Identity", "x", "y\n\x1b[2J")]),
    }
    found = {name: {"model.onnx": content} for name, content in onnx_files.items()}
    irs = {
        "IR empty": (b"", b""),
        "IR without weights": (xml, b""),
        "IR cut": (xml[: len(xml) // 2], weights),
        "IR no XML": (b"<<<<", weights),
        "IR offset beyond the end": (xml.replace(b'offset="0"', b'offset="99999999999"'), weights),
        "IR negative offset": (xml.replace(b'offset="0"', b'offset="-8"'), weights),
        "IR giant size": (xml.replace(b'size="4"', b'size="18446744073709551615"'), weights),
        "IR giant dimension": (
            xml.replace(b"<dim>32</dim>", b"<dim>2147483647</dim>").replace(b"3,32,32", b"3,2147483647,2147483647"),
            weights,
        ),
        "IR external entity": (_with_entity(xml, b'SYSTEM "file:///etc/passwd"'), weights),
        "IR billion laughs": (_with_entity(xml, b'"lol"') + b"", weights),
        "IR cycle": (xml.replace(b'from-layer="0"', b'from-layer="5"'), weights),
        "IR deep": (b"<a>" * 20_000 + b"</a>" * 20_000, weights),
        "IR library to load": (xml.replace(b'version="opset1"', b'version="extension"'), weights),
    }
    return found | {name: {"model.xml": one, "model.bin": other} for name, (one, other) in irs.items()}


def intermediate_representation(content: bytes) -> dict[str, bytes]:
    """Return an ONNX model as OpenVINO's two files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(openvino.Core().read_model(content), path, compress_to_fp16=False)
        return {"model.xml": path.read_bytes(), "model.bin": path.with_suffix(".bin").read_bytes()}


def _node(kind: str, inputs: str, output: str) -> Any:
    return helper.make_node(kind, inputs.split(), [output])


def _model(nodes: list[Any], *, shape: list[int] | None = None, opset: int = 18, **constants: Any) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape or _SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return bytes(model.SerializeToString())


def _external(location: str) -> bytes:
    model = onnx.load_from_string(_model([_node("Add", "x w", "y")], w=np.ones(_SHAPE, np.float32)))
    _move_outside(model.graph.initializer[0], location)
    return bytes(model.SerializeToString())


def _constant_outside() -> bytes:
    tensor = numpy_helper.from_array(np.ones(_SHAPE, np.float32), "w")
    _move_outside(tensor, "secret.bin")
    constant = helper.make_node("Constant", [], ["w"])
    constant.attribute.append(helper.make_attribute("value", tensor))
    return _model([constant, _node("Add", "x w", "y")])


def _move_outside(tensor: Any, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def _claimed(*dims: int) -> bytes:
    model = onnx.load_from_string(_model([_node("Add", "x w", "y")], w=np.ones(1, np.float32)))
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    return bytes(model.SerializeToString())


def _nested_ifs(levels: int) -> bytes:
    output = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    leaf = inner = helper.make_graph([_node("Identity", "x", "o")], "inner", [], [output])
    for _ in range(levels):
        choice = helper.make_node("If", ["yes"], ["o"], then_branch=inner, else_branch=leaf)
        inner = helper.make_graph([choice], "level", [], [output])
    return _model([*inner.node, _node("Identity", "o", "y")], yes=np.bool_(True))


def _deep_messages(levels: int) -> bytes:
    """A graph in an attribute of a node of a graph ..., as raw protobuf: no library would write it."""
    content = b""
    for number in range(3 * levels):  # GraphProto.node = 1, NodeProto.attribute = 5, AttributeProto.g = 6
        content = bytes([(6, 5, 1)[number % 3] << 3 | 2]) + _varint(len(content)) + content
    return b"\x08\x0a" + bytes([7 << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _recursive_function() -> bytes:
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    body = [helper.make_node("Again", ["a"], ["b"], domain="own")]
    function = helper.make_function("own", "Again", ["a"], ["b"], body, opset)
    model = onnx.load_from_string(_model([helper.make_node("Again", ["x"], ["y"], domain="own")]))
    model.opset_import.append(opset[1])
    model.functions.append(function)
    return bytes(model.SerializeToString())


def _scan() -> bytes:
    """Build a scan whose body scans as well, three deep."""
    element = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("i", "o")]
    body = helper.make_graph([_node("Sin", "i", "o")], "b", element[:1], element[1:])
    for _ in range(3):
        inner = helper.make_node("Scan", ["i"], ["o"], body=body, num_scan_inputs=1)
        body = helper.make_graph([inner], "b", element[:1], element[1:])
    wide = [_node("Expand", "x to", "wide"), helper.make_node("Scan", ["wide"], ["y"], body=body, num_scan_inputs=1)]
    return _model(wide, to=np.array([4096, 3, 8, 8], np.int64))


def _with_entity(xml: bytes, entity: bytes) -> bytes:
    levels = b"".join(b'<!ENTITY e%d "%s">' % (one, b"&e%d;" % (one - 1) * 10) for one in range(1, 10))
    document_type = b"<!DOCTYPE net [<!ENTITY e0 " + entity + b">" + levels + b"]>"
    head, _, rest = xml.partition(b"?>")
    return head + b"?>" + document_type + rest.replace(b'name="', b'name="&e9;', 1)
