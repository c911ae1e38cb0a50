"""Archives that a worker must refuse, each named for its one fault, with a part of the message that has to tell it.

The ZIP faults are those of `hostile_archives`, as far as they do not depend on its small limits; here are the faults of
``pipeline.json`` and of models, and the real limits' own.
"""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.hostile_archives import Lie, hostile_archives, lying_zip
from support.hostile_models import repetition_bomb, weights_bomb
from support.tiny_models import tiny_classifier, tiny_detector, tiny_pipeline, zip_bytes

__all__ = ["broken_archives", "broken_models"]

Broken = dict[str, tuple[bytes, str]]

_OF_SMALL_LIMITS: Final = {
    *("too many entries", "too large", "larger than it may be", "size hidden in ZIP64"),
    "ZIP64 sizes without their field",
}
_IMAGE: Final = {"type": "redis_save_image", "key": "{record_id}"}
_CREATE: Final = {"type": "postgresql_create_record", "table": "cars", "fields": {"id": "{record_id}"}}


def broken_archives() -> Broken:
    """Return the archives whose fault shows before any model is looked at: content and a part of the message."""
    zips = {name: one for name, one in hostile_archives().items() if name not in _OF_SMALL_LIMITS}
    return zips | _sizes() | _folders() | _texts() | _keys() | _actions() | _files()


def broken_models() -> Broken:
    """Return the archives whose fault is a model's, or what ``pipeline.json`` says of one: they take a second each."""
    detector, classifier = tiny_detector(), tiny_classifier()
    two_inputs = _changed(detector, lambda graph: graph.input.append(graph.input[0]), rename_input="images2")
    models = {
        "no model at all": (b"", "no readable ONNX"),
        "garbage for a model": (b"\x08\x07garbage" * 50, "no readable ONNX"),
        "text for a model": (b"these are no weights", "no readable ONNX"),
        "weights elsewhere": (_changed(detector, _external), "outside its file"),
        "weights cut off": (detector[: len(detector) // 2], "ONNX"),
        "weights that are NaN": (_changed(detector, _not_a_number), "NaN"),
        "two picture inputs": (two_inputs, "inputs"),
        "a classifier for a detector": (classifier, "cannot be read as detection"),
        "kernels of a gigabyte": (weights_bomb(), "model"),
        "a layer of eleven gigabytes": (repetition_bomb(), "memory"),
    }
    found = {name: (_packed(detector=content), what) for name, (content, what) in models.items()}
    branch = tiny_pipeline()["pipeline"]["branches"][0]
    ocr = branch | {"modelType": "ocr", "classes": None}
    plain = {"classes": ["red", "green", "blue"]}
    settings: dict[str, tuple[dict[str, Any], str]] = {
        "a text model without an alphabet": ({"branches": [ocr], "parallelActions": []}, "alphabet"),
        "more classes than the model has": ({"classes": [*plain["classes"], "x"]}, "3 classes"),
        "an output that is not there": ({"output": "boxes"}, "no output 'boxes'"),
        "a layout that does not fit": ({"outputLayout": "ssd"}, "cannot be read as ssd"),
        "classes that only the model tells": ({"classes": None, "triggerClasses": ["reed"]}, "no class 'reed'"),
    }
    found |= {name: (_packed(**keys), what) for name, (keys, what) in settings.items()}
    found["an IR that is none"] = (
        _packed(modelFile="m.xml", files={"m.xml": b"<net", "m.bin": b"1234"}),
        "could not be read",
    )
    return found


def _sizes() -> Broken:
    many = [Lie(f"{number}") for number in range(1001)]
    twice = {"packed": 6 << 20, "inflated": 1100 << 20}
    sparse = [Lie(f"{number}", data=bytes(6 << 20), local=dict(twice), central=dict(twice)) for number in range(2)]
    return {
        "more than a thousand entries": (lying_zip(many), "more than 1000"),
        "two gigabytes inflated": (lying_zip(sparse), "more than 2048 MiB"),
        "no entries": (lying_zip([]), "holds no pipeline.json"),
    }


def _folders() -> Broken:
    text = json.dumps(tiny_pipeline()).encode()
    return {
        "no pipeline.json": (zip_bytes({"a.onnx": tiny_detector()}), "holds no pipeline.json"),
        "two top folders": (zip_bytes({"a/pipeline.json": text, "b/x": b""}), "holds no pipeline.json"),
        "pipeline.json too deep in": (zip_bytes({"a/b/pipeline.json": text}), "holds no pipeline.json"),
        "pipeline.json is a folder": (zip_bytes({"pipeline.json/x": text}), "holds no pipeline.json"),
    }


def _texts() -> Broken:
    text = json.dumps(tiny_pipeline())
    texts = {
        "no JSON": (b"{", "no JSON"),
        "an empty pipeline.json": (b"", "no JSON"),
        "not UTF-8": (text.encode("utf-16"), "no JSON"),
        "a comment in JSON": (text.replace("{", "{ // x\n", 1).encode(), "no JSON"),
        "NaN in JSON": (text.replace('"minConfidence": 0.5', '"minConfidence": NaN', 1).encode(), "no JSON"),
        "a list for a file": (b"[]", "the file: a list"),
        "nested too deep": (b'{"a":' * 100 + b"1" + b"}" * 100, "nested deeper"),
        "nested as deep as can be": (b"[" * 100_000, "no JSON"),
        "JSON too large": (json.dumps({"a": os.urandom(5 << 19).hex()}).encode(), "larger than 4 MiB"),
        "JSON of too many values": (json.dumps([0] * 20_001).encode(), "more than 20000"),
        "a key given twice": (
            text.replace('"crop": true', '"crop": true, "crop": true', 1).encode(),
            "stands there twice",
        ),
        "a version of the future": (
            text.replace('"schemaVersion": 1', '"schemaVersion": 2').encode(),
            "schemaVersion: 2",
        ),
    }
    return {name: (_packed(text=content), what) for name, (content, what) in texts.items()}


def _keys() -> Broken:
    branches = tiny_pipeline()["pipeline"]["branches"]
    keys: dict[str, tuple[dict[str, Any], str]] = {
        "an unknown key": ({"minConfidense": 1}, "minConfidense is not known; did you mean 'minConfidence'?"),
        "a key of the wrong type": ({"targetFps": "five"}, "pipeline.targetFps: a text of 4 characters"),
        "a number out of bounds": ({"minConfidence": 50}, "minConfidence: 50 stands there"),
        "a word that is none of those": ({"tracking": {"method": "sort"}}, "tracking.method: 'sort' stands there"),
        "a missing key": ({"modelId": None}, "pipeline.modelId: null stands there"),
        "no detector in front": ({"modelType": "classification"}, "a pipeline begins with 'detection'"),
        "an id given twice": ({"branches": [branches[0]] * 2, "parallelActions": []}, "'tiny_hue_v1' is used 2 times"),
        "a result of a reserved name": (
            {"branches": [branches[0] | {"resultField": "error"}], "parallelActions": []},
            "'error' has a meaning of its own",
        ),
        "a trigger that nobody detects": ({"classes": ["a", "b", "c"], "triggerClasses": ["d"]}, "triggerClasses: the"),
        "a crop that nobody detects": (
            {"classes": ["red", "green", "blue"], "branches": [branches[0] | {"cropClass": "wheel"}, branches[1]]},
            "cropClass: the detector knows no class 'wheel'",
        ),
        "a column without a name": ({"tables": {"cars": {"": "text"}}}, "'' is no name"),
        "a table whose name is too long": ({"tables": {"x" * 64: {}}}, "is no name"),
        "SQL for a type": ({"tables": {"cars": {"a": "text); drop table cars; --"}}}, "is not allowed"),
    }
    return {name: (_packed(**one), what) for name, (one, what) in keys.items()}


def _actions() -> Broken:
    update = {"type": "postgresql_update", "table": "cars", "key_field": "id", "key_value": "{record_id}", "fields": {}}
    actions: dict[str, tuple[list[dict[str, Any]], str]] = {
        "an action of no kind": ([_IMAGE | {"type": "redis_save_imge"}], "did you mean 'redis_save_image'?"),
        "an action without its key": ([{"type": "redis_save_image"}], "actions[0].key is missing"),
        "a template with a stray brace": ([_IMAGE | {"key": "{record_id"}], "a brace at character 1"),
        "a template with a format": ([_IMAGE | {"key": "{record_id:>9}"}], "a brace at character 1"),
        "a template that reaches for attributes": (
            [_IMAGE | {"key": "{record_id.__class__}"}],
            "can never have a value",
        ),
        "a template that reaches for globals": (
            [_IMAGE | {"key": "{0.__init__.__globals__}"}],
            "a brace at character 1",
        ),
        "a name that nothing gives": ([_IMAGE | {"key": "{plate.text}"}], "{plate.text} can never have a value"),
        "a name that comes later": (
            [{"type": "publish_message", "channel": "c", "message": "{redis_save_image.key}"}, _IMAGE],
            "{redis_save_image.key} can never have a value here",
        ),
        "a branch to wait for that is none": (
            [_CREATE, update | {"waitForBranches": ["tiny_hue"]}],
            "no branch 'tiny_hue'",
        ),
        "two actions of one name": ([_IMAGE, _IMAGE], "'redis_save_image' is used 2 times"),
        "a condition on nothing": ([_IMAGE | {"when": {"field": "speed", "at_least": 1}}], "{speed} can never have"),
        "a record without fields": ([_CREATE | {"fields": {}}], "actions[0].fields"),
    }
    found = {name: (_packed(actions=one), what) for name, (one, what) in actions.items()}
    picture: dict[str, Any] = {"classes": ["red", "green", "blue"], "actions": [_IMAGE | {"region": "plate"}]}
    return found | {
        "a picture of what nobody detects": (_packed(**picture), "region: the detector knows no class 'plate'")
    }


def _files() -> Broken:
    names = {
        "a model that is absent": ("absent.onnx", "holds no file 'absent.onnx'"),
        "a model outside": ("../tiny_detector.onnx", "leads out of the archive"),
        "a model anywhere": ("/etc/passwd.onnx", "leads out of the archive"),
        "a pickle": ("car.pt", "runs code when it is loaded"),
        "a file that is no model": ("pipeline.json", "not .json"),
        "an IR without its weights": ("model.xml", "holds no file 'model.bin'"),
        "a folder for a model": ("folder.onnx", "holds no file 'folder.onnx'"),
    }
    files = {"model.xml": b"<net/>", "folder.onnx/x": b""}
    return {name: (_packed(modelFile=file, files=files), what) for name, (file, what) in names.items()}


def _packed(
    *, text: bytes | None = None, detector: bytes | None = None, files: Mapping[str, bytes] | None = None, **keys: Any
) -> bytes:
    """Pack the tiny archive with another text, another detector, further files or other keys."""
    content = {
        "pipeline.json": json.dumps(tiny_pipeline(**keys)).encode() if text is None else text,
        "tiny_detector.onnx": tiny_detector() if detector is None else detector,
        "tiny_classifier.onnx": tiny_classifier(),
    }
    return zip_bytes(content | dict(files or {}))


def _changed(content: bytes, change: Callable[[Any], object], *, rename_input: str | None = None) -> bytes:
    model = onnx.load_from_string(content)
    change(model.graph)
    if rename_input is not None:
        model.graph.input[-1].name = rename_input
        model.graph.node.append(helper.make_node("Identity", [rename_input], ["unused"]))
        model.graph.output.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


def _external(graph: Any) -> None:
    tensor = graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    tensor.ClearField("raw_data")


def _not_a_number(graph: Any) -> None:
    for tensor in graph.initializer:
        if tensor.name == "half":
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(np.float32("nan")), "half"))
