"""What must be known of an ONNX file before any runtime sees it.

A runtime resolves tensors that are stored outside the file, even where the model comes as bytes: a hostile model
could read any file into its weights. So the protobuf is walked here, by its wire format and without building
anything, and such tensors are refused wherever they hide: in initializers, attributes, functions, sub-graphs.

Source: the protobuf wire format (protobuf.dev/programming-guides/encoding) and the field numbers of onnx.proto.
"""

from collections.abc import Iterator
from typing import Final

from detector_worker.core.exceptions import ModelLoadError

__all__ = ["read_onnx_metadata"]

_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "ModelProto": {7: "GraphProto", 14: "StringStringEntryProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
    "StringStringEntryProto": {},
}
"""Every field through which a tensor, or the model's metadata, can be reached."""

_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14
_MAX_DEPTH: Final = 64
_MAX_FIELDS: Final = 5_000_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_onnx_metadata(content: bytes, *, where: str) -> dict[str, str]:
    """Check a model's graph and return the notes of its exporter (``metadata_props``).

    Args:
        content: The whole file.
        where: Which model, for errors.

    Raises:
        ModelLoadError: No ONNX, damaged, nested too deeply, or a tensor lies outside the file.
    """
    notes: list[dict[int, bytes]] = []
    pending = [("ModelProto", 0, len(content), 0)]
    budget = _MAX_FIELDS
    try:
        while pending:
            kind, start, end, depth = pending.pop()
            if depth > _MAX_DEPTH:
                raise ValueError("its graphs are nested too deeply")
            note: dict[int, bytes] = {}
            for field, wire_type, begin, stop in _fields(content, start, end):
                budget -= 1
                if kind == "TensorProto" and _is_external(content, field, wire_type, begin):
                    raise ModelLoadError(
                        "The model keeps weights outside its file",
                        where=where,
                        mend="Export it into one file, with all weights inside (external_data=False).",
                    )
                if wire_type == _BYTES and field in _CHILDREN[kind]:
                    pending.append((_CHILDREN[kind][field], begin, stop, depth + 1))
                elif wire_type == _BYTES and kind == "StringStringEntryProto":
                    note[field] = content[begin:stop]
            if budget < 0:
                raise ValueError("it has too many fields")
            if depth == 0 and not any(child == "GraphProto" for child, *_ in pending):
                raise ValueError("there is no graph in it")
            notes.append(note)
    except (ValueError, IndexError) as exc:
        why = str(exc) if isinstance(exc, ValueError) else "it ends in the middle"
        raise _no_onnx(where, why) from exc
    return {_text(note, 1): _text(note, 2) for note in notes if note}


def _text(note: dict[int, bytes], field: int) -> str:
    return note.get(field, b"").decode("utf-8", "replace")


def _no_onnx(where: str, why: str) -> ModelLoadError:
    return ModelLoadError(
        f"The file is no readable ONNX model: {why}", where=where, mend="Export the model again and pack it anew."
    )


def _is_external(content: bytes, field: int, wire_type: int, begin: int) -> bool:
    """Whether a TensorProto's field says that its values lie elsewhere."""
    if field == _DATA_LOCATION:
        return wire_type != _VARINT or content[begin] != 0
    return field == _EXTERNAL_DATA


def _fields(content: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, begin, end of the value) of one message.

    Raises:
        ValueError: The bytes are no message. IndexError: They end too soon.
    """
    while position < end:
        tag, position = _varint(content, position)
        field, wire_type = tag >> 3, tag & 7
        begin = position
        if wire_type == _VARINT:
            _, position = _varint(content, position)
        elif wire_type == _BYTES:
            length, begin = _varint(content, position)
            position = begin + length
        elif wire_type in {_FIXED32, _FIXED64}:
            position += 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError("it is not in the protobuf format")
        if field == 0 or position > end:
            raise ValueError("it is damaged or not in the protobuf format")
        yield field, wire_type, begin, position


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it is not in the protobuf format")
