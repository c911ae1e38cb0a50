import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from onnx import TensorProto, helper
from support.assets import assets_dir
from support.hostile_models import stolen_weights
from support.loading import runtime
from support.tiny_models import squares_image, tiny_classifier, tiny_detector, tiny_text_reader

from detector_worker.core.exceptions import ConfigurationError, ModelError, ModelLoadError
from detector_worker.models.runtimes.onnx_runtime import OnnxRuntime
from detector_worker.models.runtimes.runtime import Preprocessing


@cache
def onnx_runtime() -> OnnxRuntime:
    return OnnxRuntime(device="cpu", threads=2, requests=2)


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def identity_model(shape: list[Any], kind: int) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        "identity",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8])
@pytest.mark.parametrize(
    "shape", [[1, 3, 16, 24], ["n", 16, 24, 3], ["n", "c", "h", "w"], [1, 3, "h", 24], [None, 3, 16, None]]
)
def test_a_picture_arrives_as_the_model_wants_it(tmp_path: Path, shape: list[Any], kind: int) -> None:
    path = saved(tmp_path / "m.onnx", identity_model(shape, kind))
    preprocessing = Preprocessing("rgb", 0.5, (1.0, 2.0, 3.0), (0.5, 1.0, 0.25))
    picture = np.random.default_rng(1).integers(30, 120, (16, 24, 3), np.uint8)

    spec = onnx_runtime().read_spec(path, input_hw=(16, 24))
    answer = onnx_runtime().compile(path, preprocessing, input_hw=(16, 24)).infer(picture)["y"]

    expected = (picture[..., ::-1] * 0.5 - [1, 2, 3]) / [0.5, 1, 0.25]
    expected = np.trunc(expected) if kind == TensorProto.UINT8 else expected
    layout = (0, 1, 2) if shape[3] == 3 else (2, 0, 1)
    np.testing.assert_allclose(answer[0], expected.transpose(layout), rtol=1e-3)
    assert spec.takes_bytes == (kind == TensorProto.UINT8)
    assert spec.input_hw == (16, 24)
    assert spec.is_dynamic == (shape[2] == "h" and shape[3] == "w")


@pytest.mark.parametrize("name", ["detector", "open detector", "classifier", "text reader"])
def test_both_runtimes_say_the_same_of_a_model(tmp_path: Path, name: str) -> None:
    contents = {
        "detector": tiny_detector(),
        "open detector": tiny_detector(None),
        "classifier": tiny_classifier(),
        "text reader": tiny_text_reader(),
    }
    path = saved(tmp_path / "m.onnx", contents[name])

    spec = onnx_runtime().read_spec(path, input_hw=(128, 192))
    assert spec == runtime().read_spec(path, input_hw=(128, 192))

    picture = np.asarray(cv2.resize(squares_image({(40, 40): "red"}), spec.input_hw[::-1]), np.uint8)
    ours, others = (
        one.compile(path, Preprocessing("rgb", 1 / 255), input_hw=spec.input_hw).infer(picture)
        for one in (onnx_runtime(), runtime())
    )
    assert ours.keys() == others.keys()
    for output, values in ours.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, others[output], atol=1e-3)


@pytest.mark.parametrize(
    ("file", "preprocessing"),
    [
        ("detector/yolox_nano.onnx", Preprocessing()),
        ("classifier/vehicle-attributes-0039.onnx", Preprocessing()),
        ("plate/cct_xs_v1_global.onnx", Preprocessing("rgb")),
    ],
)
def test_both_runtimes_answer_alike_on_real_models(file: str, preprocessing: Preprocessing) -> None:
    path = assets_dir() / file
    photo = cv2.imread(str(assets_dir() / "image" / "omz_barrier-0106.jpeg"))
    assert photo is not None

    spec = runtime().read_spec(path, input_hw=(416, 416))
    picture = np.asarray(cv2.resize(photo, spec.input_hw[::-1]), np.uint8)
    ours, others = (
        one.compile(path, preprocessing, input_hw=spec.input_hw).infer(picture) for one in (onnx_runtime(), runtime())
    )

    assert onnx_runtime().read_spec(path, input_hw=(416, 416)).outputs == spec.outputs
    for output, values in ours.items():
        np.testing.assert_allclose(values, others[output], atol=1e-3, rtol=1e-3)


def test_threads_at_once_get_their_own_answers(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", identity_model([1, 3, 16, 24], TensorProto.FLOAT))
    compiled = onnx_runtime().compile(path, Preprocessing(), input_hw=(1, 1))
    barrier = threading.Barrier(4)

    def ask(value: int) -> bool:
        barrier.wait(timeout=10)
        picture = np.full((16, 24, 3), value, np.uint8)
        return all(bool((compiled.infer(picture)["y"] == value).all()) for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, (10, 20, 30, 40)))


def test_what_grows_or_burns_the_processor_is_off(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", tiny_classifier())

    options = onnx_runtime().compile(path, Preprocessing(), input_hw=(1, 1))._session.get_session_options()

    assert not options.enable_cpu_mem_arena
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


FLOAT = TensorProto.FLOAT
BAD_INPUTS = {
    "one channel": identity_model([1, 1, 8, 8], FLOAT),
    "two pictures": identity_model([2, 3, 8, 8], FLOAT),
    "whole numbers": identity_model([1, 3, 8, 8], TensorProto.INT64),
    "one name for two sides": identity_model([1, 3, "side", "side"], FLOAT),
    "no picture": identity_model([1, 8], FLOAT),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_a_model_that_takes_no_colour_picture_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ModelLoadError, match="as inputs"):
        onnx_runtime().read_spec(saved(tmp_path / "m.onnx", BAD_INPUTS[kind]), input_hw=(8, 16))


def test_files_are_checked_before_the_runtime_sees_them(tmp_path: Path) -> None:
    bad = {
        "models.runtime to openvino": saved(tmp_path / "m.xml", b"<net/>"),
        "no readable ONNX": saved(tmp_path / "text.onnx", b"no model"),
        "outside its file": stolen_weights(tmp_path / "m.onnx"),
        "could not be read": tmp_path / "absent.onnx",
    }
    for message, path in bad.items():
        with pytest.raises(ModelLoadError, match=message):
            onnx_runtime().read_spec(path, input_hw=(8, 16))


def test_a_graph_that_the_runtime_refuses_is_one_clear_error(tmp_path: Path) -> None:
    content = tiny_classifier().replace(b"Softmax", b"Hardmux")

    with pytest.raises(ModelLoadError, match=r"could not be read: .*Hardmux"):
        onnx_runtime().read_spec(saved(tmp_path / "m.onnx", content), input_hw=(8, 8))


def test_a_model_that_answers_nan_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", identity_model([1, 3, 8, 8], TensorProto.FLOAT))

    with pytest.raises(ModelLoadError, match="NaN"), np.errstate(divide="ignore", invalid="ignore"):
        onnx_runtime().compile(path, Preprocessing(std=(0.0, 1.0, 1.0)), input_hw=(1, 1))


def test_a_picture_of_another_shape_is_refused(tmp_path: Path) -> None:
    compiled = onnx_runtime().compile(saved(tmp_path / "m.onnx", tiny_classifier()), Preprocessing(), input_hw=(1, 1))

    with pytest.raises(ModelError, match="does not fit"):
        compiled.infer(np.zeros((32, 33, 3), np.uint8))


def test_an_accelerator_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"nothing for the device coreml here, only .*CPU.*extra `gpu`"):
        OnnxRuntime(device="coreml", threads=1, requests=1)


def test_it_says_what_it_is() -> None:
    one: Any = onnx_runtime()

    assert one.identity.startswith(f"onnxruntime {one.version}, cpu, ")
    assert one.precisions == ("f32",)


def test_nothing_is_reported_to_its_maker(tmp_path: Path) -> None:
    """Its reporter would leave a file in the temporary folder from the import on."""
    clean = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    ours = "from detector_worker.models.runtimes.onnx_runtime import import_onnxruntime; import_onnxruntime()"

    subprocess.run([sys.executable, "-P", "-c", ours], check=True, env=clean)

    assert list(tmp_path.iterdir()) == []
