"""The check of an ONNX file before any runtime sees it: weights outside the file are refused wherever they hide.

A runtime would read them, even where the model comes as bytes. The protobuf is walked by its wire format without
building anything: parsing could take seventy times its size. Source: protobuf.dev on encoding, and onnx.proto.
"""

from collections.abc import Iterator
from typing import Final

from detector_worker.core.exceptions import ModelLoadError

__all__ = ["refuse_external_weights"]

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
_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_MAX_FIELDS: Final = 5_000_000


def refuse_external_weights(content: bytes, *, where: str) -> None:
    """Check a whole file.

    Raises:
        ModelLoadError: No ONNX, damaged, of millions of parts, or a tensor lies outside the file.
    """
    try:
        is_external = _has_external_weights(content)
    except (ValueError, IndexError) as exc:
        mend = "Export the model again and pack it anew."
        raise ModelLoadError("The file is no readable ONNX model", where=where, mend=mend) from exc
    if is_external:
        mend = "Export it into one file, with all weights inside (external_data=False)."
        raise ModelLoadError("The model keeps weights outside its file", where=where, mend=mend)


def _has_external_weights(content: bytes) -> bool:
    pending, budget, has_graph = [("ModelProto", 0, len(content))], _MAX_FIELDS, False
    while pending:
        kind, start, end = pending.pop()
        for field, begin, stop in _fields(content, start, end):
            budget -= 1
            if budget < 0:
                raise ValueError
            if kind == "TensorProto":
                if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and content[begin:stop] != b"\0"):
                    return True
            elif field in WAYS_TO_TENSORS[kind]:
                pending.append((WAYS_TO_TENSORS[kind][field], begin, stop))
                has_graph = True
    if not has_graph:
        raise ValueError
    return False


def _fields(content: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
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
