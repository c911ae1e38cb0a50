"""How long one detection takes, from the decoded picture to the boxes. Measures and reports."""

import time
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from support.assets import assets_dir
from support.loading import model_config, new_loader, new_manager
from support.measuring import PerformanceConfig

from detector_worker.core.frame import Frame
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.models.runtimes.compiled_cache import CompiledCache
from detector_worker.models.runtimes.openvino_runtime import OpenVINORuntime
from detector_worker.models.runtimes.runtime import Preprocessing
from detector_worker.models.runtimes.trial import Candidate, ModelTrial, TrialLimits

pytestmark = pytest.mark.performance


def measure(detector: YOLODetector, frame: Frame, name: str, config: PerformanceConfig) -> None:
    for _ in range(config.warm_up):
        detector.detect(frame, 0.3)
    start_s = time.perf_counter()
    for _ in range(config.measured):
        detections = detector.detect(frame, 0.3)
    mean_s = (time.perf_counter() - start_s) / config.measured
    print(f"\n{name}: mean {mean_s * 1e3:.2f} ms, {1 / mean_s:.1f} frames/s, {len(detections)} objects")  # noqa: T201
    assert len(detections) > 0, "what finds nothing has measured nothing"


async def test_tiny_detector(
    sample_mpta_file: Path, sample_frame: Frame, tmp_path: Path, performance_config: PerformanceConfig
) -> None:
    pipeline = await new_loader(tmp_path / "cache").load_pipeline(sample_mpta_file)

    detector = YOLODetector(pipeline.models[pipeline.config.model_id])
    measure(detector, sample_frame, "tiny detector, 640x360", performance_config)


async def test_yolox_nano(performance_config: PerformanceConfig) -> None:
    assets = assets_dir()
    detector = await YOLODetector.load_model(new_manager(), model_config(assets / "detector" / "yolox_nano.onnx"))
    with av.open(str(assets / "clip" / "traffic_side.mp4")) as clip:
        picture = next(frame for number, frame in enumerate(clip.decode(video=0)) if number == 160)

    frame = Frame(picture, camera_id="gate", frame_id=160, time_s=0.0, captured_at=0.0)
    measure(detector, frame, "YOLOX-nano, 640x360", performance_config)


def test_first_and_second_start(tmp_path: Path) -> None:
    path, input_hw = assets_dir() / "detector" / "yolox_nano.onnx", (416, 416)
    limits = TrialLimits(2 << 30, 60)
    trial = ModelTrial(
        tmp_path / "trials",
        runtime_identity="measured",
        runtime_name="openvino",
        device="cpu",
        threads=2,
        requests=2,
        limits=limits,
    )
    with_cache = OpenVINORuntime(threads=2, requests=2, cache=CompiledCache(tmp_path / "compiled"))
    without = OpenVINORuntime(threads=2, requests=2)
    without.compile(path, Preprocessing(), input_hw=input_hw)  # whatever is done once in a process

    steps: dict[str, Callable[[], object]] = {
        "trial in a child": lambda: trial.admit([Candidate(path, "yolox_nano", input_hw)]),
        "trial known": lambda: trial.admit([Candidate(path, "yolox_nano", input_hw)]),
        "compile": lambda: without.compile(path, Preprocessing(), input_hw=input_hw),
        "compile and keep": lambda: with_cache.compile(path, Preprocessing(), input_hw=input_hw),
        "from the cache": lambda: with_cache.compile(path, Preprocessing(), input_hw=input_hw),
    }
    taken_ms = {}
    for name, step in steps.items():
        start_s = time.perf_counter()
        step()
        taken_ms[name] = (time.perf_counter() - start_s) * 1e3
    print("\nYOLOX-nano:", ", ".join(f"{name} {ms:.0f} ms" for name, ms in taken_ms.items()))  # noqa: T201
    assert taken_ms["trial known"] < taken_ms["trial in a child"]
