import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.loading import runtime
from support.tiny_models import tiny_classifier, tiny_detector

from detector_worker.core.exceptions import ModelError, ModelLoadError
from detector_worker.models.runtimes.runtime import Preprocessing


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def identity_model(
    shape: list[int | str], kind: int = TensorProto.FLOAT, *, nodes: list[Any] | None = None, constants: Any = ()
) -> bytes:
    """Give a picture back as it arrives in the graph, as float32."""
    graph = helper.make_graph(
        nodes or [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        "identity",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(constants),
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    )


@pytest.fixture
def picture() -> Any:
    return np.random.default_rng(1).integers(0, 256, (16, 24, 3), np.uint8)


def test_colour_scale_mean_and_std_are_part_of_the_graph(tmp_path: Path, picture: Any) -> None:
    preprocessing = Preprocessing("rgb", 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    path = saved(tmp_path / "m.onnx", identity_model([1, 3, 16, 24]))

    answer = runtime().compile(path, preprocessing, input_hw=(1, 1)).infer(picture)["y"]

    rgb = picture[..., ::-1].astype(np.float64) / 255
    expected = (rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(answer[0], expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8])
def test_models_with_channels_last_and_byte_input_are_fed_too(tmp_path: Path, picture: Any, kind: int) -> None:
    path = saved(tmp_path / "m.onnx", identity_model(["n", 16, 24, 3], kind))

    spec = runtime().read_spec(path, input_hw=(1, 1))
    answer = runtime().compile(path, Preprocessing("rgb"), input_hw=(1, 1)).infer(picture)["y"]

    assert spec.takes_bytes == (kind == TensorProto.UINT8)
    assert not spec.is_dynamic
    np.testing.assert_array_equal(answer[0], picture[..., ::-1])


def test_a_model_of_open_size_takes_the_size_that_is_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", tiny_detector(None))

    spec = runtime().read_spec(path, input_hw=(256, 320))
    compiled = runtime().compile(path, Preprocessing(), input_hw=(256, 320))

    assert spec.is_dynamic
    assert spec.outputs == {"output0": (1, 7, 32 * 40)}
    assert spec.metadata["names"] == "{0: 'red', 1: 'green', 2: 'blue'}"
    assert compiled.infer(np.zeros((256, 320, 3), np.uint8))["output0"].shape == (1, 7, 32 * 40)


def test_an_openvino_ir_is_read_with_its_weights(tmp_path: Path) -> None:
    onnx_path = saved(tmp_path / "m.onnx", tiny_classifier())
    openvino = runtime()._ov
    openvino.save_model(openvino.Core().read_model(onnx_path), tmp_path / "ir.xml", compress_to_fp16=False)
    red = np.full((32, 32, 3), (0, 0, 255), np.uint8)

    of_onnx, of_ir = (
        runtime().compile(tmp_path / name, Preprocessing("rgb", 1 / 255), input_hw=(1, 1)).infer(red)
        for name in ("m.onnx", "ir.xml")
    )

    assert of_onnx.keys() == of_ir.keys() == {"hue", "tone"}
    np.testing.assert_allclose(of_onnx["hue"], of_ir["hue"], atol=1e-6)


def test_answers_stay_when_the_next_picture_is_asked(tmp_path: Path, picture: Any) -> None:
    compiled = runtime().compile(
        saved(tmp_path / "m.onnx", identity_model([1, 3, 16, 24])), Preprocessing(), input_hw=(1, 1)
    )

    first = compiled.infer(picture)["y"]
    kept = first.copy()
    compiled.infer(255 - picture)

    np.testing.assert_array_equal(first, kept)


def test_threads_at_once_get_their_own_answers(tmp_path: Path) -> None:
    compiled = runtime().compile(
        saved(tmp_path / "m.onnx", identity_model([1, 3, 16, 24])), Preprocessing(), input_hw=(1, 1)
    )
    barrier = threading.Barrier(4)

    def ask(value: int) -> bool:
        barrier.wait(timeout=10)
        picture = np.full((16, 24, 3), value, np.uint8)
        return all(bool((compiled.infer(picture)["y"] == value).all()) for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, (10, 20, 30, 40)))


def test_a_picture_of_another_shape_is_refused(tmp_path: Path) -> None:
    compiled = runtime().compile(saved(tmp_path / "m.onnx", tiny_classifier()), Preprocessing(), input_hw=(1, 1))

    with pytest.raises(ModelError, match="does not fit"):
        compiled.infer(np.zeros((32, 33, 3), np.uint8))


def test_a_model_that_answers_nan_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Sub", ["x", "x"], ["zero"]), helper.make_node("Div", ["zero", "zero"], ["y"])]
    path = saved(tmp_path / "m.onnx", identity_model([1, 3, 8, 8], nodes=nodes))

    with pytest.raises(ModelLoadError, match="NaN"):
        runtime().compile(path, Preprocessing(), input_hw=(1, 1))


def test_a_layer_of_monstrous_size_is_refused_before_it_is_compiled(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([1, 3, 100_000, 100_000]), "shape")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
        helper.make_node("ReduceMean", ["huge"], ["mean"]),
        helper.make_node("Add", ["mean", "x"], ["y"]),
    ]
    path = saved(tmp_path / "m.onnx", identity_model([1, 3, 8, 8], nodes=nodes, constants=[shape]))

    with pytest.raises(ModelLoadError, match="more memory"):
        runtime().compile(path, Preprocessing(), input_hw=(1, 1))


@pytest.mark.parametrize("shape", [[1, 4, 8, 8], [1, 1, 8, 8], [1, 8], [3, 8, 8]])
def test_a_model_that_takes_no_colour_picture_is_refused(tmp_path: Path, shape: list[int | str]) -> None:
    path = saved(tmp_path / "m.onnx", identity_model(shape))

    with pytest.raises(ModelLoadError, match="inputs"):
        runtime().read_spec(path, input_hw=(8, 8))


def test_endless_nesting_is_one_clear_error(tmp_path: Path) -> None:
    content = b""
    for field in (5, 1, 6) * 40 + (5, 1, 7):  # attribute, node, graph, from the innermost on; at last the model's graph
        length = len(content)
        content = bytes([field << 3 | 2, length & 0x7F | 0x80, length >> 7]) + content

    with pytest.raises(ModelLoadError, match="without end"):
        runtime().read_spec(saved(tmp_path / "m.onnx", content), input_hw=(8, 8))


@pytest.mark.parametrize(("name", "content"), [("m.onnx", b"no model"), ("m.xml", b"<net/>"), ("m.pt", b"pickle")])
def test_what_is_no_model_is_one_clear_error(tmp_path: Path, name: str, content: bytes) -> None:
    saved(tmp_path / "m.bin", b"")

    with pytest.raises(ModelLoadError, match="m\\."):
        runtime().read_spec(saved(tmp_path / name, content), input_hw=(8, 8))


def test_weights_beside_the_file_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load_from_string(tiny_classifier())
    onnx.save(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ModelLoadError, match="outside its file"):
        runtime().read_spec(tmp_path / "m.onnx", input_hw=(8, 8))


def test_precision_is_f32_and_threads_are_as_given(tmp_path: Path) -> None:
    compiled = (
        runtime().compile(saved(tmp_path / "m.onnx", tiny_detector()), Preprocessing(), input_hw=(1, 1))._compiled
    )

    assert compiled.get_property("INFERENCE_PRECISION_HINT") == runtime()._ov.Type.f32
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
    assert compiled.get_property("NUM_STREAMS") == 2


def test_what_a_model_really_computes_in_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", tiny_detector())

    of_precision = {
        precision: runtime().compile(path, Preprocessing(), input_hw=(1, 1), precision=precision).computed_in
        for precision in runtime().precisions
    }

    assert of_precision == {precision: {precision: 1} for precision in runtime().precisions}


def test_an_ir_with_a_doctype_or_offsets_beyond_its_weights_is_refused(tmp_path: Path) -> None:
    openvino = runtime()._ov
    model = openvino.Core().read_model(tiny_detector())
    openvino.save_model(model, tmp_path / "m.xml", compress_to_fp16=False)
    good = (tmp_path / "m.xml").read_bytes()
    weights_bytes = (tmp_path / "m.bin").stat().st_size
    laughs = b'<!DOCTYPE net [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
    first_offset = re.compile(rb'offset="\d+"')
    beyond = [weights_bytes, 2**63, 2**64 - 8, 2**64 - 1, -8]
    bad = {
        "DOCTYPE": [good.replace(b"<net", laughs + b"<net", 1)],
        "could not be read": [first_offset.sub(b'offset="%d"' % offset, good, count=1) for offset in beyond],
    }

    assert runtime().read_spec(tmp_path / "m.xml", input_hw=(8, 8)).input_hw == (384, 640)
    for message, contents in bad.items():
        for content in contents:
            with pytest.raises(ModelLoadError, match=message):
                runtime().read_spec(saved(tmp_path / "m.xml", content), input_hw=(8, 8))


TELEMETRY_PROBE = """
import sys
asked = []
sys.addaudithook(lambda event, args: asked.append(event) if event in {"socket.connect", "socket.getaddrinfo"} else None)
from pathlib import Path
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime
OpenVINORuntime(threads=1, requests=1).read_spec(Path(sys.argv[1]), input_hw=(8, 8))
import threading
assert sys.modules["openvino_telemetry"] is None
assert not asked, asked
assert threading.active_count() == 1, threading.enumerate()
"""


def test_openvino_reports_to_nobody(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    model = saved(tmp_path / "m.onnx", tiny_classifier())

    subprocess.run(
        [sys.executable, "-c", TELEMETRY_PROBE, str(model)],
        check=True,
        timeout=30,
        env={**os.environ, "HOME": str(home)},
    )

    assert list(home.iterdir()) == []
