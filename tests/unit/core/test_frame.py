import av
import numpy as np
import pytest

from detector_worker.core.frame import Frame, PairedFrame

WH = (70, 40)  # no multiple of what decoders align rows to


def ramp() -> np.ndarray:
    """Brightness that tells each pixel's place, shape (40, 70), uint8."""
    return (np.arange(40)[:, None] * 2 + np.arange(70)[None]).astype(np.uint8)


def decoded(layout: str) -> av.VideoFrame:
    picture = av.VideoFrame(*WH, layout)
    for plane, luma in zip(picture.planes[:1], [ramp()], strict=True):
        rows = np.zeros((plane.buffer_size // plane.line_size, plane.line_size), np.uint8)
        rows[:40, :70] = luma
        plane.update(rows.tobytes())
    return picture


def framed(picture: av.VideoFrame | np.ndarray) -> Frame:
    return Frame(picture, camera_id="gate", frame_id=1, time_s=0, captured_at=0)


@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p", "nv12", "gray"])
def test_brightness_of_a_region_is_the_pictures_own(layout: str) -> None:
    frame = framed(decoded(layout))

    assert np.array_equal(frame.luma_of((10, 5, 60, 35)), ramp()[5:35, 10:60])
    assert frame._bgr is None  # nothing was converted


def test_brightness_is_clipped_to_the_picture() -> None:
    frame = framed(decoded("yuv420p"))

    assert np.array_equal(frame.luma_of((-5, -5, 999, 999)), ramp())
    assert frame.luma_of((-9, -9, -1, -1)).size == 0
    assert frame.luma_of((80, 50, 90, 60)).size == 0


def test_a_picture_without_brightness_of_its_own_is_converted() -> None:
    frame = framed(np.repeat(ramp()[..., None], 3, axis=2))

    assert np.array_equal(frame.luma_of((10, 5, 60, 35)), ramp()[5:35, 10:60])
    assert frame.luma_of((80, 50, 90, 60)).size == 0


def test_brightness_comes_from_the_picture_that_crops_come_from() -> None:
    small, large = framed(decoded("gray")), framed(np.full((80, 140, 3), 9, np.uint8))

    assert PairedFrame(small, large, (140, 80)).luma_of((20, 10, 120, 70)).shape == (60, 100)
    alone = PairedFrame(small, None, (140, 80)).luma_of((20, 10, 120, 70))
    assert np.array_equal(alone, ramp()[5:35, 10:60])
