"""A detector, a classifier and a text reader small enough to be made on the spot, that truly see what they say.

The detector answers in the YOLOv8 layout and finds saturated red, green and blue squares of 64x64 model pixels
on a grey background; the classifier tells the hue and the tone of a crop, the text reader spells its stripes. With
them a bare clone proves the whole way of a frame without any file from elsewhere.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DETECTOR_CLASSES: Final = ("red", "green", "blue")
HUES: Final = ("red", "green", "blue")
TONES: Final = ("dark", "bright")
ALPHABET: Final = ("R", "G", "B", "_")
TEXT_SLOTS: Final = 4
SQUARE_PX: Final = 64
_STRIDE_PX: Final = 8

BGR: Final = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}
"""The colours that the detector knows."""


@cache
def tiny_detector(hw: tuple[int, int] | None = (384, 640)) -> bytes:
    """Build the detector as an ONNX file; input RGB 0..1, output [1, 4+3, N].

    A 1x1 convolution measures how far one colour is above the others, a box filter of the square's size averages
    that around each anchor of a grid of 8 pixels, and ``3 * mean - 2`` is the confidence: 1 on a perfectly centred
    square, about 0.6 at least for the anchor nearest to any square; of 0.3 and more, suppression leaves one.

    Args:
        hw: Fixed input height and width, multiples of 8; None leaves both open.
    """
    pad = (SQUARE_PX - _STRIDE_PX) // 2
    excess = np.full((3, 3, 1, 1), -0.5, np.float32)
    excess[range(3), range(3)] = 1.0
    constants = {
        "excess": excess,
        "zero": np.float32(0),
        "one": np.float32(1),
        "two": np.float32(2),
        "three": np.float32(3),
        "stride": np.float32(_STRIDE_PX),
        "half": np.float32(_STRIDE_PX / 2),
        "side": np.float32(SQUARE_PX),
        "axis_y": np.int64(2),
        "axis_x": np.int64(3),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
        "channel": np.array([1], np.int64),
        "flat": np.array([1, 4 + len(DETECTOR_CLASSES), -1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["images", "excess"], ["difference"]),
        helper.make_node("Relu", ["difference"], ["colour"]),
        helper.make_node(
            "AveragePool",
            ["colour"],
            ["rows"],
            kernel_shape=[SQUARE_PX, 1],
            strides=[_STRIDE_PX, 1],
            pads=[pad, 0, pad, 0],
            count_include_pad=1,
        ),
        helper.make_node(
            "AveragePool",
            ["rows"],
            ["mean"],
            kernel_shape=[1, SQUARE_PX],
            strides=[1, _STRIDE_PX],
            pads=[0, pad, 0, pad],
            count_include_pad=1,
        ),
        helper.make_node("Mul", ["mean", "three"], ["steep"]),
        helper.make_node("Sub", ["steep", "two"], ["centred"]),
        helper.make_node("Clip", ["centred", "zero", "one"], ["confidence"]),
        helper.make_node("Slice", ["mean", "first", "second", "channel"], ["plane"]),
        helper.make_node("Mul", ["plane", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "one"], ["ones"]),
        helper.make_node("Mul", ["ones", "side"], ["sides"]),
    ]
    for axis in ("x", "y"):
        nodes += [
            helper.make_node("CumSum", ["ones", f"axis_{axis}"], [f"count_{axis}"], exclusive=1),
            helper.make_node("Mul", [f"count_{axis}", "stride"], [f"corner_{axis}"]),
            helper.make_node("Add", [f"corner_{axis}", "half"], [f"centre_{axis}"]),
        ]
    nodes += [
        helper.make_node("Concat", ["centre_x", "centre_y", "sides", "sides", "confidence"], ["map"], axis=1),
        helper.make_node("Reshape", ["map", "flat"], ["output0"]),
    ]
    height, width = hw or ("height", "width")
    anchors = "anchors" if hw is None else (hw[0] // _STRIDE_PX) * (hw[1] // _STRIDE_PX)
    names = dict(enumerate(DETECTOR_CLASSES))
    return _model_bytes(
        nodes,
        ("images", [1, 3, height, width]),
        {"output0": [1, 4 + len(DETECTOR_CLASSES), anchors]},
        constants,
        metadata={"names": repr(names), "task": "detect"},
    )


@cache
def tiny_classifier() -> bytes:
    """Build the classifier as an ONNX file: input RGB 0..1 of 32x32, outputs ``hue`` and ``tone``.

    ``hue`` is a distribution over `HUES`; ``tone`` gives raw logits over `TONES`, bright where the strongest
    colour is above 0.7.
    """
    constants = {
        "axes": np.array([2, 3], np.int64),
        "colour_axis": np.array([1], np.int64),
        "gain": np.float32(20),
        "threshold": np.float32(0.7),
        "signs": np.array([[-1, 1]], np.float32),
    }
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "gain"], ["hue_logits"]),
        helper.make_node("Softmax", ["hue_logits"], ["hue"], axis=1),
        helper.make_node("ReduceMax", ["mean", "colour_axis"], ["strongest"], keepdims=1),
        helper.make_node("Sub", ["strongest", "threshold"], ["above"]),
        helper.make_node("Mul", ["above", "gain"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "signs"], ["tone"]),
    ]
    outputs: dict[str, list[int | str]] = {"hue": [1, len(HUES)], "tone": [1, len(TONES)]}
    return _model_bytes(nodes, ("images", [1, 3, 32, 32]), outputs, constants)


@cache
def tiny_text_reader() -> bytes:
    """Build the text reader as an ONNX file: input RGB 0..1 of 32x128, outputs ``text`` and ``logits``.

    Each of `TEXT_SLOTS` stripes, from left to right, is a symbol of `ALPHABET`: that of its colour, padding where it
    is grey. ``text`` holds a distribution for each stripe, ``logits`` the same as raw numbers.
    """
    likeness = np.zeros((len(ALPHABET), 3, 1, 1), np.float32)
    likeness[:3, :, 0, 0] = 30 * np.eye(3) - 10
    constants = {"likeness": likeness, "offset": np.array([0, 0, 0, 10], np.float32), "height": np.array([2], np.int64)}
    nodes = [
        helper.make_node("AveragePool", ["images"], ["stripes"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Conv", ["stripes", "likeness", "offset"], ["alike"]),
        helper.make_node("Squeeze", ["alike", "height"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["logits"], perm=[0, 2, 1]),
        helper.make_node("Softmax", ["logits"], ["text"], axis=2),
    ]
    shape: list[int | str] = [1, TEXT_SLOTS, len(ALPHABET)]
    return _model_bytes(nodes, ("images", [1, 3, 32, 32 * TEXT_SLOTS]), {"text": shape, "logits": shape}, constants)


def answering_model(
    answers: Mapping[str, Any], *, hw: tuple[int, int] = (64, 64), metadata: dict[str, str] | None = None
) -> bytes:
    """Build a model that gives every picture the same answers, in whatever layout: to see how these are read.

    Arrays of integers become outputs of 64-bit integers, others of floats.
    """
    arrays = {name: np.asarray(answer) for name, answer in answers.items()}
    integers = frozenset(name for name, answer in arrays.items() if answer.dtype.kind == "i")
    constants: dict[str, Any] = {"axes": np.array([0, 1, 2, 3], np.int64), "zero": np.float32(0)}
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["no_integer"], to=TensorProto.INT64),
    ]
    for name, answer in arrays.items():
        constants[f"{name}_answer"] = answer.astype(np.int64 if name in integers else np.float32)
        nothing = "no_integer" if name in integers else "nothing"
        nodes.append(helper.make_node("Add", [f"{name}_answer", nothing], [name]))
    shapes: dict[str, list[int | str]] = {name: list(answer.shape) for name, answer in arrays.items()}
    return _model_bytes(nodes, ("images", [1, 3, *hw]), shapes, constants, metadata=metadata, integers=integers)


def tiny_pipeline(**overrides: Any) -> dict[str, Any]:
    """Return a complete ``pipeline.json`` for both models; ``overrides`` replace keys of ``pipeline``."""
    pipeline: dict[str, Any] = {
        "modelId": "tiny_squares_v1",
        "modelFile": "tiny_detector.onnx",
        "modelType": "detection",
        "minConfidence": 0.5,
        "triggerClasses": list(DETECTOR_CLASSES),
        "expectedClasses": list(DETECTOR_CLASSES),
        "actions": [
            {
                "type": "postgresql_create_record",
                "table": "tiny_visits",
                "fields": {
                    "record_id": "{record_id}",
                    "session_id": "{session_id}",
                    "display_id": "{display_id}",
                    "camera_id": "{camera_id}",
                    "captured_timestamp": "{timestamp}",
                    "class_name": "{class_name}",
                    "confidence": "{confidence}",
                    "note": None,
                },
            },
            {
                "type": "redis_save_image",
                "region": "best",
                "key": "tiny:{display_id}:{record_id}:{filename}",
                "expire_seconds": 600,
                "format": "jpeg",
                "quality": 95,
            },
            {
                "type": "publish_message",
                "channel": "tiny:{camera_id}",
                "message": {"event": "detected", "record": "{record_id}", "image": "{redis_save_image.key}"},
            },
        ],
        "branches": [_branch("hue", list(HUES)), _branch("tone", list(TONES))],
        "parallelActions": [
            {
                "type": "postgresql_update_combined",
                "table": "tiny_visits",
                "key_field": "record_id",
                "key_value": "{record_id}",
                "waitForBranches": ["tiny_hue_v1", "tiny_tone_v1"],
                "fields": {"hue": "{tiny_hue_v1.hue}", "tone": "{tiny_tone_v1.tone}"},
            }
        ],
        "tables": {
            "tiny_visits": {
                "record_id": "uuid primary key",
                "session_id": "text",
                "display_id": "text",
                "camera_id": "text",
                "captured_timestamp": "timestamptz",
                "class_name": "text",
                "confidence": "double precision",
                "note": "text",
                "hue": "text",
                "tone": "text",
            }
        },
    }
    return {"schemaVersion": 1, "pipeline": pipeline | overrides}


def write_tiny_mpta(path: Path, *, detector_hw: tuple[int, int] | None = (384, 640), **overrides: Any) -> Path:
    """Pack both models and `tiny_pipeline` into an archive at ``path``; returns the path."""
    files = {
        "pipeline.json": json.dumps(tiny_pipeline(**overrides)).encode(),
        "tiny_detector.onnx": tiny_detector(detector_hw),
        "tiny_classifier.onnx": tiny_classifier(),
    }
    path.write_bytes(zip_bytes(files))
    return path


def zip_bytes(files: dict[str, bytes]) -> bytes:
    """Return a ZIP archive of the given files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def squares_image(
    squares: dict[tuple[int, int], str], *, wh: tuple[int, int] = (640, 360), side_px: int = SQUARE_PX
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Paint squares on grey: upper left corner -> colour name; returns (H, W, 3) uint8 BGR."""
    image = np.full((wh[1], wh[0], 3), 128, np.uint8)
    for (x, y), colour in squares.items():
        image[y : y + side_px, x : x + side_px] = BGR[colour]
    return image


def _branch(name: str, classes: list[str]) -> dict[str, Any]:
    return {
        "modelId": f"tiny_{name}_v1",
        "modelFile": "tiny_classifier.onnx",
        "modelType": "classification",
        "output": name,
        "classes": classes,
        "resultField": name,
        "parallel": True,
        "crop": True,
    }


def _model_bytes(
    nodes: list[Any],
    image_input: tuple[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    constants: dict[str, Any],
    *,
    metadata: dict[str, str] | None = None,
    integers: frozenset[str] = frozenset(),
) -> bytes:
    types = {name: TensorProto.INT64 if name in integers else TensorProto.FLOAT for name in outputs}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(image_input[0], TensorProto.FLOAT, image_input[1])],
        [helper.make_tensor_value_info(name, types[name], shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
