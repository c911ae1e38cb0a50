import cv2
import numpy as np
import pytest
from support.tracks import GREY, RED, WHITE, painted

from detector_worker.detection.appearance import ALIKE, describe, likeness

BLUE = (200, 60, 30)
DARK = (25, 25, 25)


def car(colour: tuple[int, int, int], *, light: float = 1.0, seed: int = 0) -> np.ndarray:
    image = painted([(10, 10, 150, 80, "car", 0.9)], colour)[10:80, 10:150].copy()
    image[8:25, 40:100] = (70, 60, 50)  # windows
    noise = np.random.default_rng(seed).normal(0, 6, image.shape)
    return np.clip(image * light + noise, 0, 255).astype(np.uint8)


def alike(first: np.ndarray, second: np.ndarray) -> float:
    one, other = describe(first), describe(second)
    assert one is not None
    assert other is not None
    return likeness(one, other)


@pytest.mark.parametrize("colour", [RED, WHITE, GREY, BLUE, DARK])
def test_a_car_is_like_itself_in_another_light_and_noise(colour: tuple[int, int, int]) -> None:
    assert alike(car(colour), car(colour, light=0.85, seed=1)) >= ALIKE


@pytest.mark.parametrize(("first", "second"), [(RED, WHITE), (RED, BLUE), (WHITE, DARK), (BLUE, GREY), (DARK, RED)])
def test_cars_of_different_colours_are_unlike(first: tuple[int, int, int], second: tuple[int, int, int]) -> None:
    assert alike(car(first), car(second)) < ALIKE


def test_an_empty_crop_looks_like_nothing() -> None:
    assert describe(np.empty((0, 40, 3), np.uint8)) is None


def test_a_single_pixel_can_be_described() -> None:
    pixel = np.full((1, 1, 3), 200, np.uint8)

    assert alike(pixel, pixel) == pytest.approx(1.0)


@pytest.mark.parametrize("colour", [RED, WHITE, GREY, BLUE, DARK])
def test_a_car_is_like_itself_under_a_cloud(colour: tuple[int, int, int]) -> None:
    assert alike(car(colour), car(colour, light=0.5, seed=1)) >= ALIKE


def test_shapes_of_one_colour_are_told_apart_by_their_pattern() -> None:
    saloon, van = car(GREY), car(GREY)
    van[8:25, 40:100] = GREY
    van[8:60, 4:30] = (70, 60, 50)

    assert alike(saloon, van) < alike(saloon, car(GREY, seed=1)) - 0.05


def test_the_size_of_a_crop_hardly_matters() -> None:
    large = cv2.resize(car(BLUE), (700, 350), interpolation=cv2.INTER_LINEAR)

    assert alike(car(BLUE), np.asarray(large, np.uint8)) > 0.97


def test_a_description_survives_being_saved() -> None:
    red, blue = describe(car(RED)), describe(car(BLUE))
    assert red is not None
    assert blue is not None
    saved = np.array([round(float(one), 4) for one in red], np.float32)

    assert len(saved) <= 200
    assert likeness(red, saved) == pytest.approx(1.0, abs=1e-3)
    assert likeness(blue, saved) == pytest.approx(likeness(blue, red), abs=1e-3)


def test_an_older_versions_description_refuses_nothing() -> None:
    red = describe(car(RED))
    assert red is not None

    assert likeness(red, np.full(18, 1 / 18, np.float32)) == 1.0


def test_what_has_hardly_a_pattern_does_not_change_all_at_once() -> None:
    plain = np.full((70, 140, 3), 90, np.uint8)
    likenesses = []
    for difference in (0, 2, 4, 8):
        other = plain.copy()
        other[20:50, 30:100] += np.uint8(difference)
        likenesses.append(alike(plain, other))

    assert likenesses == sorted(likenesses, reverse=True)
    assert max(np.abs(np.diff(likenesses))) < 0.06
