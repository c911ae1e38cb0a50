import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detector_worker.detection.letterbox import Letterbox, fit_letterbox, remove_letterbox
from detector_worker.models.model_reading import LetterboxMode

SIDES = st.integers(16, 4096)
MODES = st.sampled_from(["center", "topLeft", "none"])


def test_a_wide_picture_is_centred() -> None:
    region = (0, 0, 1280, 720)
    assert fit_letterbox(region, (384, 640), "center") == Letterbox(region, (384, 640), (640, 360), (0, 12))


def test_a_wide_picture_is_put_at_the_top_left() -> None:
    region = (0, 0, 640, 360)
    assert fit_letterbox(region, (416, 416), "topLeft") == Letterbox(region, (416, 416), (416, 234), (0, 0))


def test_without_letterbox_a_picture_is_stretched() -> None:
    region = (10, 20, 110, 70)
    assert fit_letterbox(region, (32, 64), "none") == Letterbox(region, (32, 64), (64, 32), (0, 0))


@given(source_wh=st.tuples(SIDES, SIDES), input_hw=st.tuples(SIDES, SIDES), mode=MODES)
def test_the_picture_lies_within_the_input_and_touches_two_sides(
    source_wh: tuple[int, int], input_hw: tuple[int, int], mode: LetterboxMode
) -> None:
    letterbox = fit_letterbox((0, 0, *source_wh), input_hw, mode)
    (width, height), (x, y) = letterbox.content_wh, letterbox.pad_xy

    assert 0 <= x <= x + width <= input_hw[1]
    assert 0 <= y <= y + height <= input_hw[0]
    assert width == input_hw[1] or height == input_hw[0]


@given(
    corner=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    source_wh=st.tuples(SIDES, SIDES),
    input_hw=st.tuples(SIDES, SIDES),
    mode=MODES,
    shares=st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4), max_size=5),
)
def test_boxes_find_the_way_back_into_the_frame(
    corner: tuple[int, int],
    source_wh: tuple[int, int],
    input_hw: tuple[int, int],
    mode: LetterboxMode,
    shares: list[tuple[float, float, float, float]],
) -> None:
    letterbox = fit_letterbox((*corner, corner[0] + source_wh[0], corner[1] + source_wh[1]), input_hw, mode)
    scale_xy = np.array(letterbox.content_wh) / source_wh
    boxes = np.array(shares, np.float64).reshape(-1, 4) * [*source_wh, *source_wh]
    fitted = boxes * [*scale_xy, *scale_xy] + [*letterbox.pad_xy, *letterbox.pad_xy]

    returned = remove_letterbox(fitted.astype(np.float32), letterbox)

    assert returned.dtype == np.float32
    tolerance = 1e-5 * (max(source_wh) + 500) + 2e-6 * max(input_hw) / min(scale_xy)
    np.testing.assert_allclose(returned, boxes + np.array([*corner, *corner]), atol=tolerance)


def test_boxes_are_clipped_to_the_region() -> None:
    letterbox = fit_letterbox((100, 50, 420, 230), (384, 640), "center")

    wild = np.array([[-9, -9, 999, 999]], np.float32)

    assert remove_letterbox(wild, letterbox).tolist() == [[100, 50, 420, 230]]
