import numpy as np
import pytest
from support.tracks import GREY, RED, WHITE, painted

from detector_worker.detection.appearance import describe, likeness

BLUE = (200, 60, 30)
DARK = (25, 25, 25)
ALIKE = 0.85


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
    description = describe(np.full((1, 1, 3), 200, np.uint8))

    assert description is not None
    assert description.sum() == pytest.approx(1.0)
