"""What counts as still: never a vehicle on its way, but whatever a fixed camera does all day by itself."""

from collections.abc import Callable, Iterable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detector_worker.core.frame import Frame, Region
from detector_worker.detection.motion import MotionGate

FPS = 5
WH = (640, 360)
NEVER = 1e9
_RNG = np.random.default_rng(5)
_NOISE = _RNG.normal(0, 4, (WH[1] + 64, WH[0] + 64)).astype(np.float32)

Picture = NDArray[np.float32]
At = Callable[[int], Picture]
"""Brightness by the frame's number, shape (360, 640)."""


def _street(brightness: float) -> Picture:
    """Asphalt with stains, a bright line and a dark hedge."""
    stains = cv2.resize(_RNG.uniform(0.8, 1.2, (9, 16)).astype(np.float32), WH, interpolation=cv2.INTER_CUBIC)
    picture = np.asarray(brightness * stains, np.float32)
    picture[:, 300:308] = min(255.0, brightness * 2)
    picture[:60] = brightness / 3
    return picture


DAY, NIGHT = _street(110), _street(14)


def with_car(street: Picture, x: float, *, contrast: float, y: int = 200, wh: tuple[int, int] = (96, 60)) -> Picture:
    """Put a plain body into a street, its left edge at ``x``; what is outside of the picture is not seen."""
    picture = street.copy()
    picture[y : y + wh[1], max(0, round(x)) : max(0, round(x) + wh[0])] = street[y, 200] + contrast
    return picture


def frame_of(picture: Picture, number: int, *, time_s: float | None = None, noise: float = 1.0) -> Frame:
    """A camera's picture with its sensor's noise; 1: standard deviation 4."""
    row, column = _RNG.integers(0, 64, 2)
    noisy = picture + noise * _NOISE[row : row + picture.shape[0], column : column + picture.shape[1]]
    grey = np.clip(noisy, 0, 255).astype(np.uint8)
    at_s = number / FPS if time_s is None else time_s
    return Frame(np.repeat(grey[..., None], 3, axis=2), camera_id="gate", frame_id=number, time_s=at_s, captured_at=0)


def analysed(gate: MotionGate, at: At, numbers: Iterable[int], *, at_rest: bool = True) -> list[int]:
    """Return the numbers of the frames that were analysed by a detector that finds nothing on its way, or does."""
    numbers_analysed = []
    for number in numbers:
        if not gate.is_still(frame_of(at(number), number)):
            numbers_analysed.append(number)
            gate.note_analysed(at_rest=at_rest)
    return numbers_analysed


def gate_at_rest(street: Picture = DAY, *, recheck_seconds: float = NEVER, region: Region | None = None) -> MotionGate:
    """A gate that has seen a street before the frame number 0."""
    gate = MotionGate(recheck_seconds=recheck_seconds, region=region)
    analysed(gate, lambda _: street, range(-5, 0))
    return gate


def share(numbers: list[int], of: int) -> float:
    return len(numbers) / of


@pytest.mark.parametrize("street", [DAY, NIGHT], ids=["day", "night"])
def test_a_still_scene_is_analysed_only_when_it_is_time_to(street: Picture) -> None:
    gate = MotionGate(recheck_seconds=5)

    numbers = analysed(gate, lambda _: street, range(30 * FPS))

    assert numbers == list(range(0, 30 * FPS, 5 * FPS))


def test_every_frame_is_analysed_while_anything_is_on_its_way_or_undecided() -> None:
    gate = gate_at_rest()
    gate.is_still(frame_of(DAY, 0))
    gate.note_analysed(at_rest=False)

    assert analysed(gate, lambda _: DAY, range(1, 20), at_rest=False) == list(range(1, 20))


def test_what_is_on_its_way_teaches_nothing() -> None:
    """A small one is followed through the picture; the next one like it is worth a look again."""
    gate = gate_at_rest()

    def at(number: int) -> Picture:
        return with_car(DAY, 100 + 8 * (number % 20), contrast=90, wh=(12, 8))

    analysed(gate, at, range(20), at_rest=False)
    analysed(gate, lambda _: DAY, range(20, 24))

    assert analysed(gate, at, range(40, 48)) == list(range(40, 48))


def test_the_place_of_a_small_vehicle_that_stood_there_is_looked_at_when_it_is_gone() -> None:
    gate = gate_at_rest()
    analysed(gate, lambda number: with_car(DAY, 8 * number, contrast=90, wh=(12, 8)), range(26), at_rest=False)
    analysed(gate, lambda _: with_car(DAY, 200, contrast=90, wh=(12, 8)), range(26, 40))

    assert analysed(gate, lambda _: DAY, range(40, 42))


@pytest.mark.parametrize("contrast", [-60, -12, 40, 120])
@pytest.mark.parametrize("px_per_frame", [12, 60, 160])
def test_a_vehicle_is_analysed_one_frame_late_at_most(contrast: float, px_per_frame: int) -> None:
    """Counted from the frame in which a fifth of it is inside the picture."""
    gate = gate_at_rest()

    def at(number: int) -> Picture:
        return with_car(DAY, -96 + px_per_frame * number, contrast=contrast)

    first = analysed(gate, at, range(20))[0]

    assert first <= np.ceil(96 / 5 / px_per_frame) + 1


@pytest.mark.parametrize("contrast", [-6, 5, 8])
def test_an_unlit_vehicle_that_creeps_in_at_night_is_analysed_again_and_again(contrast: float) -> None:
    """A pixel a frame: one picture hardly differs from the one before. Nobody looks but for its motion."""
    gate = gate_at_rest(NIGHT)

    numbers = analysed(gate, lambda number: with_car(NIGHT, -96 + number, contrast=contrast), range(120))

    assert numbers[0] <= 30, "30 of its 96 pixels are in"
    assert max(np.diff(numbers)) <= 30


def test_a_vehicle_that_comes_to_stand_is_still_then_and_analysed_when_it_leaves() -> None:
    gate = gate_at_rest()
    analysed(gate, lambda number: with_car(DAY, 20 * number, contrast=60), range(10), at_rest=False)

    standing = analysed(gate, lambda _: with_car(DAY, 200, contrast=60), range(10, 60))
    leaving = analysed(gate, lambda number: with_car(DAY, 200 + 10 * (number - 60), contrast=60), range(60, 63))

    assert standing in ([10], [10, 11])
    assert leaving
    assert leaving[0] <= 62


def test_the_light_of_an_evening_costs_a_look_now_and_then() -> None:
    """A third of the brightness goes within a minute."""
    gate, frames = gate_at_rest(), 60 * FPS

    numbers = analysed(gate, lambda number: DAY * (1 - number / frames / 3), range(frames))

    assert share(numbers, frames) < 0.1


@pytest.mark.parametrize("street_then", [DAY * 1.4, DAY * 0.3], ids=["lamps on", "lamps off"])
def test_a_sudden_light_is_looked_at_and_then_the_scene_is_still_again(street_then: Picture) -> None:
    numbers = analysed(gate_at_rest(), lambda number: street_then if number >= 5 else DAY, range(40))

    assert numbers[0] == 5
    assert len(numbers) <= 3


def _rain() -> At:
    def at(number: int) -> Picture:
        picture = DAY.copy()
        for x, y, length in _RNG.integers((0, -20, 7), (WH[0], WH[1], 30), (300, 3)):
            picture[max(0, y) : max(0, y + length), x : x + 1] += 45
        return picture

    return at


def _key_frames() -> At:
    """Each tenth picture is compressed anew: its blocks are a little brighter or darker than before."""
    blocks = [_RNG.uniform(-3, 3, (23, 40)).repeat(16, axis=0).repeat(16, axis=1)[: WH[1]] for _ in range(8)]
    return lambda number: np.asarray(DAY + (blocks[number // 10 % 8] if number % 10 == 0 else 0), np.float32)


def _swaying() -> At:
    """A mast in the wind: up to 3 pixels of 640 to each side."""
    return lambda number: np.roll(DAY, (round(2 * np.sin(2.3 * number)), round(3 * np.sin(1.7 * number))), (0, 1))


def _leaves() -> At:
    """A bush in the wind, at the side."""

    def at(number: int) -> Picture:
        picture = DAY.copy()
        picture[100:180, 500:580] += 25 * _RNG.integers(0, 2, (20, 20)).repeat(4, axis=0).repeat(4, axis=1)
        return picture

    return at


WEATHERS: dict[str, Callable[[], At]] = {
    "rain": _rain,
    "key frames": _key_frames,
    "swaying mast": _swaying,
    "leaves": _leaves,
}


@pytest.mark.parametrize("weather", WEATHERS)
def test_the_gate_gets_used_to(weather: str) -> None:
    gate, at = gate_at_rest(), WEATHERS[weather]()
    analysed(gate, at, range(15 * FPS))

    assert share(analysed(gate, at, range(15 * FPS, 35 * FPS)), 20 * FPS) < 0.15


@pytest.mark.parametrize("weather", WEATHERS)
def test_a_vehicle_is_analysed_in(weather: str) -> None:
    gate, at = gate_at_rest(), WEATHERS[weather]()
    analysed(gate, at, range(15 * FPS))

    numbers = analysed(
        gate, lambda n: with_car(at(n), 40 * (n - 15 * FPS), contrast=-40), range(15 * FPS, 15 * FPS + 2)
    )

    assert numbers


def test_what_passes_does_not_make_the_gate_blind_for_what_comes_next() -> None:
    """White and black bodies that nobody asked for, and lights that sweep over the street; then a grey one."""
    gate = gate_at_rest()

    def at(number: int) -> Picture:
        turn, step = divmod(number, 20)
        return DAY * 2 if step == 19 else with_car(DAY, 40 * step - 96, contrast=120 if turn % 2 else -100)

    analysed(gate, at, range(200))
    analysed(gate, lambda _: DAY, range(200, 203))

    numbers = analysed(gate, lambda number: with_car(DAY, 40 * (number - 203) - 40, contrast=20), range(203, 213))

    assert share(numbers, 10) >= 0.9


@pytest.mark.parametrize("x", [100, 400])
def test_only_the_region_counts(x: int) -> None:
    gate = gate_at_rest(region=(320, 0, 640, 360))

    numbers = analysed(gate, lambda number: with_car(DAY, x + 20 * (number % 2), contrast=80, wh=(60, 40)), range(6))

    assert bool(numbers) == (x >= 320)


def test_a_region_beside_the_picture_is_no_region() -> None:
    gate = gate_at_rest(region=(900, 0, 1200, 360))

    assert analysed(gate, lambda _: with_car(DAY, 100, contrast=80), [0]) == [0]


def test_a_clock_in_an_ignored_place_is_no_motion() -> None:
    def with_clock(number: int) -> Picture:
        picture = DAY.copy()
        picture[20:40, 30 + 20 * (number % 7) : 50 + 20 * (number % 7)] = 255
        return picture

    masked = MotionGate(recheck_seconds=NEVER, ignored=[(20, 10, 200, 50)])
    plain = MotionGate(recheck_seconds=NEVER)

    assert analysed(masked, with_clock, range(30)) == [0]
    assert len(analysed(plain, with_clock, range(30))) > 10


def test_a_clock_that_runs_backwards_and_pictures_of_a_new_size_are_analysed() -> None:
    gate = gate_at_rest(recheck_seconds=60)
    assert gate.is_still(frame_of(DAY, 0))

    assert not gate.is_still(frame_of(DAY, 1, time_s=-1000.0))
    gate.note_analysed(at_rest=True)
    assert gate.is_still(frame_of(DAY, 2, time_s=-999.0))
    assert not gate.is_still(frame_of(DAY[:180, :320], 3, time_s=-998.0))


def test_a_frame_whose_analysis_failed_does_not_count_as_looked_at() -> None:
    gate = gate_at_rest()
    car = with_car(DAY, 200, contrast=80)

    assert [gate.is_still(frame_of(car, number)) for number in range(3)] == [False] * 3
