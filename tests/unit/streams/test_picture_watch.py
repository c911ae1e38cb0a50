"""What a camera sees, judged by its pictures."""

from collections.abc import Callable

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detector_worker.core.frame import Frame
from detector_worker.streams.picture_watch import PictureWatch

_RNG = np.random.default_rng(3)


def _texture(grain_px: int) -> NDArray[np.float32]:
    cells = _RNG.integers(0, 256, (720 // grain_px, 1280 // grain_px, 3), np.uint8)
    return cv2.resize(cells, (1280, 720), interpolation=cv2.INTER_NEAREST).astype(np.float32)


_SHARP = (0.7 * _texture(80) + 0.3 * _texture(4)).astype(np.uint8)


def _noise(strength: float) -> NDArray[np.float32]:
    return _RNG.normal(0, strength, (720, 1280, 3)).astype(np.float32)


def _frame(image: NDArray[np.generic], *, as_yuv: bool = True) -> Frame:
    bgr = np.clip(image, 0, 255).astype(np.uint8)
    picture = av.VideoFrame.from_ndarray(bgr, format="bgr24").reformat(format="yuv420p") if as_yuv else bgr
    return Frame(picture, camera_id="gate", frame_id=1, time_s=0.0, captured_at=0.0)


def _black_with_a_clock() -> NDArray[np.float32]:
    text = np.zeros((720, 1280, 3), np.uint8)
    cv2.putText(text, "2026-11-25 12:00:00 GATE 1", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255,) * 3, 2)
    return 6 + _noise(2) + text


_BLIND: dict[str, Callable[[], NDArray[np.float32]]] = {
    "black, with a burned-in clock": _black_with_a_clock,
    "covered": lambda: 120 + _noise(3),
    "out of focus": lambda: cv2.GaussianBlur(_SHARP, (0, 0), 10).astype(np.float32) + _noise(1.5),
}


@pytest.mark.parametrize("kind", _BLIND)
@pytest.mark.parametrize("as_yuv", [True, False])
def test_a_camera_that_sees_nothing_for_ten_seconds_is_blind(kind: str, *, as_yuv: bool) -> None:
    watch, image = PictureWatch(), _BLIND[kind]()
    judged = []
    for second in range(12):
        watch.look(_frame(image, as_yuv=as_yuv), float(second))
        judged.append(watch.is_blind(second))
    assert judged == [False] * 10 + [True] * 2


def test_sight_comes_back_at_once() -> None:
    watch = PictureWatch()
    for second in range(12):
        watch.look(_frame(120 + _noise(3)), float(second))
    watch.look(_frame(_SHARP), 12.0)
    assert not watch.is_blind(12.0)


def test_a_sharp_picture_is_not_blind_however_long() -> None:
    watch = PictureWatch()
    for second in range(60):
        watch.look(_frame(_SHARP), float(second))
    assert not watch.is_blind(60.0)


def test_the_same_picture_is_frozen_until_anything_changes() -> None:
    watch = PictureWatch()
    for second in range(5):
        watch.look(_frame(_SHARP), float(second))
    assert watch.frozen_s == 4
    watch.look(_frame(_SHARP + _noise(6)), 5.0)
    assert watch.frozen_s == 0


def test_noise_alone_is_a_change() -> None:
    watch = PictureWatch()
    for second in range(5):
        watch.look(_frame(_SHARP.astype(np.float32) + _noise(8)), float(second))
    assert watch.frozen_s == 0


def test_one_picture_of_nothing_is_enough_where_no_other_comes() -> None:
    watch = PictureWatch()
    watch.look(_frame(120 + _noise(3)), 0.0)
    assert (watch.is_blind(9.0), watch.is_blind(10.0)) == (False, True)


def test_it_looks_once_a_second() -> None:
    watch = PictureWatch()
    watch.look(_frame(_SHARP), 0.0)
    watch.look(_frame(255 - _SHARP), 0.5)
    watch.look(_frame(_SHARP), 1.0)
    assert watch.frozen_s == 1
