"""The check of an ONNX file before any runtime sees it: weights outside the file are refused wherever they hide.

A runtime would read them, even where the model comes as bytes. The protobuf is walked by its wire format without
building anything: parsing could take seventy times its size. Source: protobuf.dev on encoding, and onnx.proto.
"""

from collections.abc import Iterator
from math import prod
from typing import Final

from detector_worker.core.exceptions import ModelLoadError

__all__ = ["refuse_hostile_graph"]

_Field = tuple[int, int, int]
"""Number, begin and end of a field; where it is a number, of its varint."""

WAYS_TO_TENSORS: Final[dict[str, dict[int, str]]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto"}
    | {22: "SparseTensorProto", 23: "SparseTensorProto"},
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}
_DIMS: Final = 1
_DATA_TYPE: Final = 2
_RAW_DATA: Final = 9
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_TYPED_DATA: Final = frozenset({4, 5, 6, 7, 10, 11})
_BITS: Final = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128}
"""Of an element, by data type; of the rarer types only that they take room is checked."""
_MAX_FIELDS: Final = 2_000_000
_MAX_DEPTH: Final = 64
"""Of messages within messages; a graph within a graph is three of them."""


def refuse_hostile_graph(content: bytes, *, where: str) -> None:
    """Check a whole file. Memory does not grow with it, time does, up to a few seconds.

    Raises:
        ModelLoadError: No ONNX, damaged, of millions of parts, nested without end, a tensor lies outside the file, or
            claims to be larger than what it holds.
    """
    mend = "Export the model again and pack it anew."
    try:
        if (fault := _fault(content)) is None:
            return
    except (ValueError, IndexError) as exc:
        raise ModelLoadError("The file is no readable ONNX model", where=where, mend=mend) from exc
    if "outside" in fault:
        mend = "Export it into one file, with all weights inside (external_data=False)."
    raise ModelLoadError(f"The model {fault}", where=where, mend=mend)


def _fault(content: bytes) -> str | None:
    """Say what is wrong with a model; ValueError or IndexError: it is none."""
    walks = [("ModelProto", _fields(content, 0, len(content)))]
    budget, has_graph = _MAX_FIELDS, False
    while walks:
        kind, fields = walks[-1]
        for field, begin, end in fields:
            budget -= 1
            inner = WAYS_TO_TENSORS[kind].get(field)
            if budget < 0:
                return "has millions of parts"
            if inner == "TensorProto":
                fault, parts = _tensor_fault(content, begin, end)
                if fault is not None:
                    return fault
                budget, has_graph = budget - parts, True
            elif inner is not None:
                has_graph = True
                walks.append((inner, _fields(content, begin, end)))
                break
        else:
            walks.pop()
        if len(walks) > _MAX_DEPTH:
            return "has graphs within graphs without end"
    if not has_graph:
        raise ValueError
    return None


def _tensor_fault(content: bytes, begin: int, end: int) -> tuple[str | None, int]:
    """Say what is wrong with a tensor, and of how many parts it is."""
    dims: list[int] = []
    data_type, raw_bytes, typed_bytes, parts = 0, None, 0, 0
    for field, start, stop in _fields(content, begin, end):
        parts += 1
        if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and content[start:stop] != b"\0"):
            return "keeps weights outside its file", parts
        if field == _DIMS:
            dims += _varints(content, start, stop)
        elif field == _DATA_TYPE:
            data_type = _varint(content, start)[0]
        elif field == _RAW_DATA:
            raw_bytes = stop - start
        elif field in _TYPED_DATA:
            typed_bytes += stop - start + 1  # the tag, which is all there is of an empty text
        if len(dims) > _MAX_DEPTH or parts > _MAX_FIELDS:
            return "has a tensor of too many dimensions or parts", parts
    if any(side >> 63 for side in dims):
        return "has a tensor of negative size", parts
    elements, held_bytes = prod(dims), typed_bytes if raw_bytes is None else raw_bytes
    if raw_bytes is not None and data_type in _BITS:
        is_true = elements * _BITS[data_type] == 8 * raw_bytes
    else:
        is_true = elements <= 4 * held_bytes  # 2 bits an element is the densest there is
    return (None if is_true else "has a tensor that claims another size than it holds"), parts


def _varints(content: bytes, position: int, end: int) -> Iterator[int]:
    """Yield the numbers of a repeated field, packed or not: begin and end hold the one, or all."""
    while position < end:
        value, position = _varint(content, position)
        yield value


def _fields(content: bytes, position: int, end: int) -> Iterator[_Field]:
    """Yield number, begin and end of each field of one message; ValueError or IndexError where it is none."""
    while position < end:
        tag, begin = _varint(content, position)
        match tag & 7:
            case 0:
                _, position = _varint(content, begin)
            case 1:
                position = begin + 8
            case 2:
                length, begin = _varint(content, begin)
                position = begin + length
            case 5:
                position = begin + 4
            case _:
                raise ValueError
        if tag < 8 or position > end:
            raise ValueError
        yield tag >> 3, begin, position


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError
