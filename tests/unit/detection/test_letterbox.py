import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detector_worker.detection.letterbox import Letterbox, fit_letterbox, remove_letterbox
from detector_worker.models.model_reading import LetterboxMode

SIDES = st.integers(16, 4096)
MODES = st.sampled_from(["center", "topLeft", "none"])


def test_a_wide_picture_is_centred() -> None:
    assert fit_letterbox((1280, 720), (384, 640), "center") == Letterbox((640, 360), (0, 12), (0.5, 0.5))


def test_a_wide_picture_is_put_at_the_top_left() -> None:
    assert fit_letterbox((640, 360), (416, 416), "topLeft") == Letterbox((416, 234), (0, 0), (0.65, 0.65))


def test_without_letterbox_a_picture_is_stretched() -> None:
    assert fit_letterbox((100, 50), (32, 64), "none") == Letterbox((64, 32), (0, 0), (0.64, 0.64))


@given(source_wh=st.tuples(SIDES, SIDES), input_hw=st.tuples(SIDES, SIDES), mode=MODES)
def test_the_picture_lies_within_the_input_and_touches_two_sides(
    source_wh: tuple[int, int], input_hw: tuple[int, int], mode: LetterboxMode
) -> None:
    (width, height), (x, y) = (letterbox := fit_letterbox(source_wh, input_hw, mode)).content_wh, letterbox.pad_xy

    assert 0 <= x <= x + width <= input_hw[1]
    assert 0 <= y <= y + height <= input_hw[0]
    assert width == input_hw[1] or height == input_hw[0]


@given(
    source_wh=st.tuples(SIDES, SIDES),
    input_hw=st.tuples(SIDES, SIDES),
    mode=MODES,
    shares=st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4), max_size=5),
)
def test_boxes_find_the_way_back(
    source_wh: tuple[int, int],
    input_hw: tuple[int, int],
    mode: LetterboxMode,
    shares: list[tuple[float, float, float, float]],
) -> None:
    letterbox = fit_letterbox(source_wh, input_hw, mode)
    boxes = np.array(shares, np.float64).reshape(-1, 4) * [*source_wh, *source_wh]
    fitted = boxes * [*letterbox.scale_xy, *letterbox.scale_xy] + [*letterbox.pad_xy, *letterbox.pad_xy]

    returned = remove_letterbox(fitted.astype(np.float32), letterbox)

    assert returned.dtype == np.float32
    tolerance = 1e-5 * max(source_wh) + 2e-6 * max(input_hw) / min(letterbox.scale_xy)
    np.testing.assert_allclose(returned, boxes, atol=tolerance)
