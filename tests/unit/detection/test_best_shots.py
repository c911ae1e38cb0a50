import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox, DetectionResult, Shot
from detector_worker.core.frame import Frame
from detector_worker.detection.best_shots import add_shot, is_cut, quality_of, sharpness_of, trim_shots

BOUNDS = BoundingBox(0, 0, 640, 360)
BOX = BoundingBox(100, 60, 420, 300)


def scene(*, blur_px: int = 0, across: bool = True, contrast: float = 1.0, seed: int = 0) -> NDArray[np.uint8]:
    """A picture full of edges, blurred along one direction, with a sensor's noise: shape (360, 640), uint8."""
    rng = np.random.default_rng(7)
    image = np.full((360, 640), 110, np.uint8)
    for _ in range(140):
        x, y, w, h = rng.integers((0, 0, 12, 12), (600, 320, 90, 60))
        cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), int(rng.integers(40, 220)), -1)
    sharp = cv2.GaussianBlur(image, (3, 3), 0.6)  # a lens
    moved = cv2.blur(sharp, (blur_px, 1) if across else (1, blur_px)) if blur_px else sharp
    noise = np.random.default_rng(seed).normal(0, 1.5, moved.shape)
    return np.asarray(np.clip(128 + (moved - 128.0) * contrast + noise, 0, 255), np.uint8)


def shot(time_s: float, quality: float, luma: NDArray[np.uint8] | None = None) -> Shot:
    image = cv2.cvtColor(scene() if luma is None else luma, cv2.COLOR_GRAY2BGR)
    frame = Frame(np.asarray(image, np.uint8), camera_id="gate", frame_id=1, time_s=time_s, captured_at=time_s)
    return Shot(frame, (DetectionResult("car", 0.9, BOX),), quality)


def kept(*shots: Shot) -> list[float]:
    """The times of those that are kept, best first."""
    own: list[Shot] = []
    for one in shots:
        add_shot(own, one)
    return [one.frame.time_s for one in own]


@pytest.mark.parametrize("across", [True, False])
def test_motion_along_either_direction_makes_a_picture_less_sharp(across: bool) -> None:
    sharpness = [sharpness_of(scene(blur_px=px, across=across, seed=px)) for px in (0, 3, 6)]

    assert sharpness[0] > 1.5 * sharpness[1]
    assert sharpness[1] > 1.3 * sharpness[2]


def test_contrast_is_not_sharpness() -> None:
    assert sharpness_of(scene(contrast=0.6)) == pytest.approx(sharpness_of(scene()), rel=0.15)


def test_a_large_picture_is_measured_in_part_and_means_the_same() -> None:
    large = np.tile(scene(), (4, 4))

    assert sharpness_of(large) == pytest.approx(sharpness_of(scene()), rel=0.1)


@pytest.mark.parametrize("hw", [(0, 0), (0, 40), (1, 1), (3, 90), (60, 2)])
def test_what_is_too_small_to_measure_is_hardly_sharp(hw: tuple[int, int]) -> None:
    assert 0 < sharpness_of(np.full(hw, 90, np.uint8)) < 0.1


def test_a_sharp_picture_is_better_than_a_somewhat_larger_blurred_one() -> None:
    assert kept(shot(0, 0.5), shot(1, 0.6, scene(blur_px=6))) == [0, 1]


def test_a_much_larger_picture_is_better_than_a_somewhat_sharper_one() -> None:
    assert kept(shot(0, 0.1), shot(1, 0.6, scene(blur_px=3))) == [1, 0]


def test_the_three_best_are_kept_in_order() -> None:
    assert kept(shot(0, 0.2), shot(1, 0.4), shot(2, 0.1), shot(3, 0.3), shot(4, 0.05)) == [1, 3, 0]


def test_of_two_pictures_of_one_moment_the_better_is_kept() -> None:
    assert kept(shot(0, 0.2), shot(0.1, 0.4), shot(0.2, 0.3)) == [0.1]


class Unlooked(Frame):
    """A frame whose pixels nobody may look at."""

    def luma_of(self, region: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        raise AssertionError(f"looked at {region}")


def test_what_could_not_be_kept_is_not_looked_at() -> None:
    own: list[Shot] = []
    for time_s in range(3):
        add_shot(own, shot(time_s, 0.9))
    worst = own[-1].quality
    unlooked = Unlooked(np.zeros((360, 640, 3), np.uint8), camera_id="gate", frame_id=9, time_s=9, captured_at=9)

    add_shot(own, Shot(unlooked, (DetectionResult("car", 0.9, BOX),), worst * 0.99))

    assert len(own) == 3
    with pytest.raises(AssertionError, match="looked at"):
        add_shot(own, Shot(unlooked, (DetectionResult("car", 0.9, BOX),), worst * 1.01))


def test_a_sharp_picture_without_detail_is_worse_than_any_with_it() -> None:
    undetailed = quality_of(BOX, 0.9, BOUNDS, complete=True, detailed=False)
    detailed = quality_of(BOX, 0.6, BOUNDS, complete=True)

    assert kept(shot(0, undetailed), shot(1, detailed, np.full((360, 640), 90, np.uint8))) == [1, 0]


def test_whole_complete_large_and_sure_is_better() -> None:
    best = quality_of(BOX, 0.9, BOUNDS, complete=True)

    assert best > quality_of(BOX, 0.7, BOUNDS, complete=True)
    assert best > quality_of(BOX, 0.9, BOUNDS, complete=False)
    assert best > quality_of(BoundingBox(100, 60, 300, 200), 0.9, BOUNDS, complete=True)
    assert best > quality_of(BoundingBox(320, 60, 640, 300), 0.9, BOUNDS, complete=True)


def test_a_box_is_cut_where_it_reaches_the_edge() -> None:
    assert not is_cut(BOX, BOUNDS)
    assert is_cut(BoundingBox(100, 60, 639, 300), BOUNDS)


def test_a_lane_keeps_sixteen_frames_nobodys_best_and_oldest_go_first() -> None:
    objects: list[list[Shot]] = [[] for _ in range(8)]
    for number, own in enumerate(objects):
        for rank in range(3):
            add_shot(own, shot(10 * number + rank, 0.9 - 0.2 * rank))
    for _ in range(8):
        trim_shots(objects)

    assert sum(map(len, objects)) == 16
    assert all(own[0].frame.time_s == 10 * number for number, own in enumerate(objects))
    assert [len(own) for own in objects] == [2] * 8
