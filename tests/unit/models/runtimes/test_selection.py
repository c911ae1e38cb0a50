from pathlib import Path
from typing import Any, Literal

import pytest

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.models.runtimes.onnx_runtime import Device, OnnxRuntime
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime
from detector_worker.models.runtimes.selection import available_runtimes, choose_runtime, new_runtime, runtime_here

_RUNTIMES: tuple[Literal["openvino", "onnxruntime"], ...] = ("openvino", "onnxruntime")
MACHINES: dict[str, tuple[Device, ...] | None] = {
    "no ONNX Runtime": None,
    "its CPU build": ("cpu",),
    "CUDA": ("cpu", "cuda"),
    "CUDA and TensorRT": ("cpu", "cuda", "tensorrt"),
    "a Mac": ("cpu", "coreml"),
}
OPENVINO, ONNX = ("openvino", "cpu"), "onnxruntime"
EXTRA, ABSENT, CPU_ONLY = "extra `gpu`", "ONNX Runtime has no", "OpenVINO computes on the CPU"

# For each machine: what runtime and device ask for, and what comes of it.
DECISIONS: dict[tuple[str, str], tuple[object, object, object, object, object]] = {
    ("auto", "auto"): (OPENVINO, OPENVINO, (ONNX, "cuda"), (ONNX, "cuda"), (ONNX, "coreml")),
    ("auto", "cpu"): (OPENVINO, OPENVINO, OPENVINO, OPENVINO, OPENVINO),
    ("auto", "cuda"): (EXTRA, ABSENT, (ONNX, "cuda"), (ONNX, "cuda"), ABSENT),
    ("auto", "tensorrt"): (EXTRA, ABSENT, ABSENT, (ONNX, "tensorrt"), ABSENT),
    ("auto", "coreml"): (EXTRA, ABSENT, ABSENT, ABSENT, (ONNX, "coreml")),
    ("openvino", "auto"): (OPENVINO, OPENVINO, OPENVINO, OPENVINO, OPENVINO),
    ("openvino", "cpu"): (OPENVINO, OPENVINO, OPENVINO, OPENVINO, OPENVINO),
    ("openvino", "cuda"): (CPU_ONLY,) * 5,
    ("openvino", "tensorrt"): (CPU_ONLY,) * 5,
    ("openvino", "coreml"): (CPU_ONLY,) * 5,
    ("onnxruntime", "auto"): (EXTRA, (ONNX, "cpu"), (ONNX, "cuda"), (ONNX, "cuda"), (ONNX, "coreml")),
    ("onnxruntime", "cpu"): (EXTRA, (ONNX, "cpu"), (ONNX, "cpu"), (ONNX, "cpu"), (ONNX, "cpu")),
    ("onnxruntime", "cuda"): (EXTRA, ABSENT, (ONNX, "cuda"), (ONNX, "cuda"), ABSENT),
    ("onnxruntime", "tensorrt"): (EXTRA, ABSENT, ABSENT, (ONNX, "tensorrt"), ABSENT),
    ("onnxruntime", "coreml"): (EXTRA, ABSENT, ABSENT, ABSENT, (ONNX, "coreml")),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("wanted", DECISIONS)
def test_every_wish_on_every_machine(wanted: tuple[Any, Any], machine: str) -> None:
    expected = DECISIONS[wanted][list(MACHINES).index(machine)]
    runtime, device = wanted

    if isinstance(expected, str):
        with pytest.raises(ConfigurationError, match=expected):
            choose_runtime(runtime=runtime, device=device, devices=MACHINES[machine])
    else:
        assert choose_runtime(runtime=runtime, device=device, devices=MACHINES[machine]) == expected


def test_the_chosen_runtime_is_made(tmp_path: Path) -> None:
    made = [
        new_runtime(runtime_here(runtime=name, device="cpu"), threads=1, requests=1, cache_dir=tmp_path)
        for name in _RUNTIMES
    ]

    assert [type(one) for one in made] == [OpenVINORuntime, OnnxRuntime]


def test_what_is_installed_is_told() -> None:
    found = {one.name: one for one in available_runtimes()}

    assert found.keys() == {"openvino", "onnxruntime"}
    assert found["openvino"].devices == ("cpu",)
    assert "f32" in found["openvino"].precisions
    assert "cpu" in found["onnxruntime"].devices
    assert all(one.version[0].isdigit() for one in found.values())
