import contextlib
import random
import tracemalloc
from math import prod
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from support.tiny_models import tiny_classifier, tiny_detector

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.runtimes import onnx_graph
from detector_worker.models.runtimes.onnx_graph import WAYS_TO_TENSORS, refuse_hostile_graph


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
        refuse_hostile_graph(hiding_places()[place], where="model m")


def test_a_location_without_the_external_mark_is_refused() -> None:
    tensor = external_tensor()
    tensor.ClearField("data_location")

    with pytest.raises(ModelLoadError, match="outside its file"):
        refuse_hostile_graph(model_of(graph_with(tensors=[tensor])), where="model m")


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
        assert fields.items() <= WAYS_TO_TENSORS[message].items(), message


@pytest.mark.parametrize("content", [tiny_detector(), tiny_classifier()])
def test_a_model_of_one_file_passes(content: bytes) -> None:
    refuse_hostile_graph(content, where="model m")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100, b"\xff" * 100, tiny_detector()[:-7]])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(ModelLoadError, match="no readable ONNX"):
        refuse_hostile_graph(content, where="model m")


def test_more_parts_than_any_model_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "_MAX_FIELDS", 60)
    graph = b"\x0a\x00" * 60  # empty nodes

    with pytest.raises(ModelLoadError, match="millions of parts"):
        refuse_hostile_graph(b"\x3a" + bytes([len(graph)]) + graph, where="model m")


@pytest.mark.parametrize(
    ("dims", "held"),
    [
        ([1 << 40], {"raw_data": bytes(16)}),
        ([1 << 32, 1 << 32], {"raw_data": b""}),  # whose product is 0 in 64 bits
        ([-4], {"raw_data": bytes(16)}),
        ([-4, 0], {"raw_data": b""}),
        ([5], {"raw_data": bytes(16)}),
        ([3], {"raw_data": bytes(16)}),
        ([1000], {"float_data": [1.0]}),
        ([100], {}),
        ([1] * 100, {"raw_data": bytes(4)}),
    ],
)
def test_a_tensor_that_claims_another_size_than_it_holds_is_refused(dims: list[int], held: dict[str, Any]) -> None:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=dims, **held)

    with pytest.raises(ModelLoadError, match="has a tensor"):
        refuse_hostile_graph(model_of(graph_with(tensors=[tensor])), where="model m")


@pytest.mark.parametrize("kind", [kind for kind in TensorProto.DataType.values() if kind])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 5)])
def test_tensors_of_every_type_pass(kind: int, shape: tuple[int, ...]) -> None:
    values: list[Any] = [b""] * prod(shape) if kind == TensorProto.STRING else [0] * prod(shape)

    refuse_hostile_graph(model_of(graph_with(tensors=[helper.make_tensor("t", kind, shape, values)])), where="model m")


def test_memory_does_not_grow_with_the_parts() -> None:
    nodes = b"\x0a\x00" * 60_000
    content = b"\x3a" + _length(len(nodes)) + nodes

    tracemalloc.start()
    try:
        refuse_hostile_graph(content, where="model m")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def _length(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F])


def test_mutated_models_are_read_or_refused_and_nothing_else() -> None:
    rng, original = random.Random(1), tiny_classifier()
    for _ in range(200):
        mutated = bytearray(original)
        for _ in range(rng.randint(1, 8)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        with contextlib.suppress(ModelLoadError):
            refuse_hostile_graph(bytes(mutated), where="model m")
