"""What a frame costs that is passed over, beside one that is analysed. Measures and reports."""

import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from support.assets import assets_dir
from support.loading import model_config, new_manager
from support.measuring import PerformanceConfig

from detector_worker.core.frame import Frame
from detector_worker.detection.motion import MotionGate
from detector_worker.detection.yolo_detector import YOLODetector

pytestmark = pytest.mark.performance


def _mean_ms(work: Callable[[], object], config: PerformanceConfig) -> float:
    """CPU time of all threads: an analysed frame takes several."""
    for _ in range(config.warm_up):
        work()
    began_s = time.process_time()
    for _ in range(config.measured):
        work()
    return (time.process_time() - began_s) / config.measured * 1e3


@pytest.mark.parametrize("wh", [(1280, 720), (1920, 1080)])
async def test_a_passed_frame_costs_less_than_a_tenth_of_an_analysed_one(
    wh: tuple[int, int], performance_config: PerformanceConfig
) -> None:
    assets: Path = assets_dir()
    detector = await YOLODetector.load_model(new_manager(), model_config(assets / "detector" / "yolox_nano.onnx"))
    with av.open(str(assets / "clip" / "street_parked.mp4")) as clip:
        image = next(clip.decode(video=0)).to_ndarray(format="bgr24")
    large = np.asarray(cv2.resize(image, wh), np.uint8)
    picture = av.VideoFrame.from_ndarray(large, format="bgr24").reformat(format="yuv420p")
    frame = Frame(picture, camera_id="gate", frame_id=1, time_s=0.0, captured_at=0.0)
    gate = MotionGate(recheck_seconds=1.0)
    gate.is_still(frame)
    gate.note_analysed(at_rest=True)
    assert gate.is_still(frame)

    passed_ms = _mean_ms(lambda: gate.is_still(frame), performance_config)
    analysed_ms = _mean_ms(lambda: detector.detect(frame, 0.3), performance_config)

    print(f"\n{wh}: passed over {passed_ms:.3f} ms of CPU, analysed {analysed_ms:.2f} ms")  # noqa: T201
    assert passed_ms < analysed_ms / 10
