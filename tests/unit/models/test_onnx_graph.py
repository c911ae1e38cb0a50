import contextlib
import random
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from support.tiny_models import tiny_classifier, tiny_detector

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models import onnx_graph
from detector_worker.models.onnx_graph import read_onnx_metadata


def external_tensor() -> Any:
    tensor = TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret.bin")
    return tensor


def constant_node(attribute: str, value: Any) -> Any:
    return helper.make_node("Constant", [], ["c"], **{attribute: value})


def graph_with(*, nodes: list[Any] | None = None, tensors: list[Any] | None = None) -> Any:
    return helper.make_graph(nodes or [], "g", [], [], tensors or [])


def model_of(graph: Any, **rest: Any) -> bytes:
    return bytes(helper.make_model(graph, **rest).SerializeToString())


def nested(graph: Any, times: int) -> Any:
    for _ in range(times):
        graph = graph_with(nodes=[helper.make_node("If", ["x"], ["y"], then_branch=graph, else_branch=graph_with())])
    return graph


def hiding_places() -> dict[str, bytes]:
    tensor = external_tensor()
    inner = graph_with(tensors=[tensor])
    sparse = onnx.SparseTensorProto(values=tensor, dims=[4])
    function = helper.make_function(
        "d", "f", [], ["c"], [constant_node("value", tensor)], [helper.make_opsetid("", 18)]
    )
    defaulted = onnx.FunctionProto(name="f", domain="d", attribute_proto=[helper.make_attribute("a", tensor)])
    training = onnx.TrainingInfoProto(initialization=inner)
    sparse_graph = graph_with()
    sparse_graph.sparse_initializer.append(sparse)
    trained = helper.make_model(graph_with())
    trained.training_info.append(training)
    return {
        "initializer": model_of(inner),
        "sparse initializer": model_of(sparse_graph),
        "attribute": model_of(graph_with(nodes=[constant_node("value", tensor)])),
        "list of tensors": model_of(graph_with(nodes=[constant_node("values", [tensor])])),
        "sparse attribute": model_of(graph_with(nodes=[constant_node("sparse_value", sparse)])),
        "sub-graph": model_of(nested(inner, 1)),
        "deep sub-graph": model_of(nested(inner, 8)),
        "list of graphs": model_of(graph_with(nodes=[helper.make_node("X", [], ["c"], graphs=[inner])])),
        "function": model_of(graph_with(), functions=[function]),
        "function's default": model_of(graph_with(), functions=[defaulted]),
        "training": bytes(trained.SerializeToString()),
    }


@pytest.mark.parametrize("place", hiding_places())
def test_external_weights_are_refused_wherever_they_hide(place: str) -> None:
    with pytest.raises(ModelLoadError, match="outside its file"):
        read_onnx_metadata(hiding_places()[place], where="model m")


def test_a_location_without_the_external_mark_is_refused() -> None:
    tensor = external_tensor()
    tensor.ClearField("data_location")

    with pytest.raises(ModelLoadError, match="outside its file"):
        read_onnx_metadata(model_of(graph_with(tensors=[tensor])), where="model m")


def test_every_way_to_a_tensor_that_onnx_knows_is_walked() -> None:
    reaches: dict[str, dict[int, str]] = {}

    def leads_to_tensor(descriptor: Any, seen: frozenset[str]) -> bool:
        return descriptor.name == "TensorProto" or any(
            leads_to_tensor(field.message_type, seen | {descriptor.name})
            for field in descriptor.fields
            if field.message_type is not None and field.message_type.name not in seen
        )

    def visit(descriptor: Any) -> None:
        if descriptor.name in reaches:
            return
        reaches[descriptor.name] = {
            field.number: field.message_type.name
            for field in descriptor.fields
            if field.message_type is not None and leads_to_tensor(field.message_type, frozenset())
        }
        for field in descriptor.fields:
            if field.number in reaches[descriptor.name]:
                visit(field.message_type)

    visit(onnx.ModelProto.DESCRIPTOR)

    for message, fields in reaches.items():
        assert fields.items() <= onnx_graph._CHILDREN[message].items(), message


def test_the_exporters_notes_are_read() -> None:
    assert read_onnx_metadata(tiny_detector(), where="model m")["names"] == "{0: 'red', 1: 'green', 2: 'blue'}"
    assert read_onnx_metadata(tiny_classifier(), where="model m") == {}


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100, b"\xff" * 100, tiny_detector()[:-7]])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ModelLoadError, match="no readable ONNX"):
        read_onnx_metadata(content, where="model m")


def test_endless_nesting_is_refused() -> None:
    content = b""
    for field in (5, 1, 6) * 40 + (5, 1, 7):  # attribute, node, graph, from the innermost on; at last the model's graph
        length = len(content)
        content = bytes([field << 3 | 2, length & 0x7F | 0x80, length >> 7]) + content

    with pytest.raises(ModelLoadError, match="nested"):
        read_onnx_metadata(content, where="model m")


def test_mutated_models_are_read_or_refused_and_nothing_else() -> None:
    rng, original = random.Random(1), tiny_classifier()
    for _ in range(500):
        mutated = bytearray(original)
        for _ in range(rng.randint(1, 8)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        with contextlib.suppress(ModelLoadError):
            read_onnx_metadata(bytes(mutated), where="model m")
