"""Formats of others, made ours: in this process where that is harmless, else in a child."""

import json
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
from support.hostile_models import stolen_weights
from support.tiny_models import squares_image, tiny_classifier, tiny_detector, tiny_pipeline, zip_bytes

from detector_worker.core.config import Configuration
from detector_worker.core.exceptions import ConfigurationError, ModelLoadError, PipelineError
from detector_worker.engine.group_models import GroupModels
from detector_worker.models.runtimes.confined_child import TrialLimits
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime
from detector_worker.models.runtimes.pt_conversion import convert_model, convert_pt
from detector_worker.models.runtimes.quantisation import quantise
from detector_worker.models.runtimes.runtime import Hw, Preprocessing

RGB = Preprocessing("rgb", 1 / 255)
LIMITS = TrialLimits(3 << 30, 50)
needs_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="needs the extra int8")


def new_runtime() -> OpenVINORuntime:
    return OpenVINORuntime(threads=2, requests=2)


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def pictures(hw: Hw = (128, 192), count: int = 16) -> list[Any]:
    """Squares in different places, each of a different colour."""
    colours = ("red", "green", "blue")
    places = [(8 + 9 * (number % 7), 8 + 7 * (number % 5)) for number in range(count)]
    return [squares_image({place: colours[n % 3]}, wh=hw[::-1]) for n, place in enumerate(places)]


@pytest.mark.parametrize("hw", [(128, 192), None])
def test_an_onnx_file_becomes_an_ir_that_says_and_answers_the_same(tmp_path: Path, hw: Hw | None) -> None:
    source = saved(tmp_path / "m.onnx", tiny_detector(hw))

    target = convert_model(source, tmp_path / "made.xml")

    assert {one.name for one in tmp_path.iterdir()} == {"m.onnx", "made.xml", "made.bin"}
    runtime = new_runtime()
    specs = [runtime.read_spec(path, input_hw=(128, 192)) for path in (source, target)]
    assert specs[0] == specs[1]
    answers = [runtime.compile(path, RGB, input_hw=(128, 192)).infer(pictures()[0]) for path in (source, target)]
    np.testing.assert_array_equal(answers[0]["output0"], answers[1]["output0"])


def test_what_cannot_be_converted_leaves_nothing(tmp_path: Path) -> None:
    bad = [saved(tmp_path / "bad.onnx", b"no model"), stolen_weights(tmp_path / "m.onnx"), tmp_path / "absent.onnx"]
    before = set(tmp_path.iterdir())

    for source in bad:
        with pytest.raises(ModelLoadError, match=source.name):
            convert_model(source, tmp_path / "made.xml")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.skipif(find_spec("ultralytics") is not None, reason="the extra is installed")
def test_without_the_extra_a_pt_file_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", b"\x80\x04")

    with pytest.raises(ConfigurationError, match=r"extra `ultralytics`, or run `detector-worker mpta convert`"):
        convert_pt(path, tmp_path / "m.onnx", limits=LIMITS)


def test_no_runtime_ever_loads_a_pickle(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", b"\x80\x04")

    with pytest.raises(ModelLoadError, match=r"runs code when it is loaded.*mpta convert.*allow_pickle"):
        new_runtime().read_spec(path, input_hw=(8, 8))


def test_a_pt_file_becomes_an_onnx_file_of_open_size(tmp_path: Path) -> None:
    ultralytics = pytest.importorskip("ultralytics")
    ultralytics.YOLO("yolov8n.yaml").save(str(tmp_path / "m.pt"))

    target = convert_pt(tmp_path / "m.pt", tmp_path / "made" / "m.onnx", limits=LIMITS)

    spec = new_runtime().read_spec(target, input_hw=(384, 640))
    assert spec.is_dynamic
    assert spec.outputs == {"output0": (1, 84, 5040)}
    assert {one.name for one in tmp_path.rglob("*")} == {"m.pt", "made", "m.onnx"}


class Hostile:
    """Runs when it is unpickled, and notes what it could do."""

    def __init__(self, port: int, note: Path) -> None:
        self._port, self._note = port, str(note)

    def __reduce__(self) -> tuple[Any, ...]:
        code = f"""
import os, socket, subprocess, sys
found = [str(os.getpid()), os.environ.get("DATABASE_PASSWORD", "no such variable")]
try:
    socket.create_connection(("127.0.0.1", {self._port}), timeout=2).close()
    found.append("connected")
except OSError:
    found.append("no network")
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)  # left by a pickle"])
open({self._note!r}, "w").write("\\n".join(found))
"""
        return exec, (code,)


def test_a_hostile_pickle_is_kept_from_secrets_and_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("ultralytics") and pytest.importorskip("torch")
    monkeypatch.setenv("DATABASE_PASSWORD", "canary")
    with socket.create_server(("127.0.0.1", 0)) as server:
        torch.save({"model": Hostile(server.getsockname()[1], tmp_path / "note")}, tmp_path / "m.pt")
        with pytest.raises(ModelLoadError, match=r"could not be converted.*\[model m.pt\]"):
            convert_pt(tmp_path / "m.pt", tmp_path / "m.onnx", limits=LIMITS)

    pid, variable, network = (tmp_path / "note").read_text().splitlines()  # that it may write is what we cannot take
    assert not psutil.pid_exists(int(pid))
    assert variable == "no such variable"
    if sys.platform == "linux":
        assert network == "no network"
    commands = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
    assert not any("left by a pickle" in command for command in commands)
    assert not (tmp_path / "m.onnx").exists()


def test_a_pickle_without_end_is_ended(tmp_path: Path) -> None:
    torch = pytest.importorskip("ultralytics") and pytest.importorskip("torch")

    class Endless:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, ("while True: pass",)

    torch.save({"model": Endless()}, tmp_path / "m.pt")

    with pytest.raises(ModelLoadError, match="longer than 8 s"):
        convert_pt(tmp_path / "m.pt", tmp_path / "m.onnx", limits=TrialLimits(3 << 30, 8))


@pytest.mark.skipif(find_spec("nncf") is not None, reason="the extra is installed")
def test_without_the_extra_quantising_says_what_to_install(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", tiny_classifier())

    with pytest.raises(ConfigurationError, match="extra `int8`"):
        quantise(path, pictures((32, 32)), RGB, (32, 32), tmp_path / "q", limits=LIMITS)


@needs_nncf
def test_a_quantised_network_sees_the_same_and_is_made_once(tmp_path: Path) -> None:
    path, seen = saved(tmp_path / "m.onnx", tiny_classifier()), pictures((32, 32))
    seen = [np.asarray(cv2.resize(picture, (32, 32)), np.uint8) for picture in pictures()]

    made = quantise(path, seen, RGB, (32, 32), tmp_path / "q", limits=LIMITS)
    first_ns = made.stat().st_mtime_ns
    again = quantise(path, seen, RGB, (32, 32), tmp_path / "q", limits=LIMITS)
    other = quantise(path, seen[1:], RGB, (32, 32), tmp_path / "q", limits=LIMITS)

    assert again == made
    assert made.stat().st_mtime_ns == first_ns
    assert other != made
    assert sorted(one.suffix for one in (tmp_path / "q").iterdir()) == [".bin", ".bin", ".xml", ".xml"]
    runtime = new_runtime()
    assert runtime.read_spec(made, input_hw=(1, 1)) == runtime.read_spec(path, input_hw=(1, 1))
    for picture in seen:
        floats, whole = (runtime.compile(one, RGB, input_hw=(32, 32)).infer(picture)["hue"] for one in (path, made))
        np.testing.assert_allclose(floats, whole, atol=0.05)


@needs_nncf
def test_what_cannot_be_quantised_leaves_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", tiny_classifier().replace(b"Softmax", b"Hardmux"))

    with pytest.raises(ModelLoadError, match=r"could not be quantised.*\[model m.onnx\]"):
        quantise(path, pictures((32, 32)), RGB, (32, 32), tmp_path / "q", limits=LIMITS)
    assert list((tmp_path / "q").iterdir()) == []


def archive_of_pt(folder: Path, content: bytes) -> Path:
    path, quiet = folder / "pt.mpta", dict[str, Any](actions=[], branches=[], parallelActions=[])
    wanted = dict[str, Any](modelFile="m.pt", triggerClasses=[], expectedClasses=[])
    pipeline = json.dumps(tiny_pipeline(**quiet, **wanted)).encode()
    path.write_bytes(zip_bytes({"pipeline.json": pipeline, "m.pt": content}))
    return path


def group_models(folder: Path, *, allow_pickle: bool) -> GroupModels:
    sections = {"server": {"data_dir": str(folder)}, "models": {"allow_pickle": allow_pickle}}
    return GroupModels(Configuration.model_validate(sections), threads=1, any_path=True)


async def test_an_archive_with_a_pt_is_refused_unless_that_is_allowed(tmp_path: Path) -> None:
    archive = archive_of_pt(tmp_path, b"\x80\x04")

    with pytest.raises(PipelineError, match=r"pipeline.modelFile: .*runs code.*mpta convert"):
        await group_models(tmp_path / "data", allow_pickle=False).loader.load_pipeline(archive)


@pytest.mark.skipif(find_spec("ultralytics") is not None, reason="the extra is installed")
async def test_where_it_is_allowed_the_missing_extra_is_named(tmp_path: Path) -> None:
    archive = archive_of_pt(tmp_path, b"\x80\x04")

    with pytest.raises(ConfigurationError, match=r"extra `ultralytics`"):
        await group_models(tmp_path / "data", allow_pickle=True).loader.load_pipeline(archive)


@pytest.mark.timeout(180)
async def test_an_archive_with_a_pt_is_converted_once(tmp_path: Path) -> None:
    ultralytics = pytest.importorskip("ultralytics")
    ultralytics.YOLO("yolov8n.yaml").save(str(tmp_path / "m.pt"))
    archive = archive_of_pt(tmp_path, (tmp_path / "m.pt").read_bytes())

    for _ in range(2):
        loaded = await group_models(tmp_path / "data", allow_pickle=True).loader.load_pipeline(archive)
        assert loaded.models["tiny_squares_v1"].reading.layout == "yolov8"
        (made,) = (tmp_path / "data" / "models" / "made").glob("*.onnx")
        made_at = made.stat().st_mtime_ns
    assert made.stat().st_mtime_ns == made_at
