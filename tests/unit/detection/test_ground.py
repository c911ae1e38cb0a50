"""What a place shows: its empty ground, or something."""

import numpy as np
import pytest
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox
from detector_worker.core.frame import Frame
from detector_worker.detection.ground import Ground

WH = (640, 360)
STREET, CAR = 60, 150
PLACE = BoundingBox(200, 100, 320, 160)


def picture(*things: BoundingBox, street: int = STREET, wh: tuple[int, int] = WH) -> NDArray[np.uint8]:
    """A street of one grey, with light grey things on it."""
    image = np.full((wh[1], wh[0], 3), street, np.uint8)
    for thing in things:
        image[max(0, int(thing.y1)) : int(thing.y2), max(0, int(thing.x1)) : int(thing.x2)] = CAR
    return image


def frame(time_s: float, *things: BoundingBox, street: int = STREET, wh: tuple[int, int] = WH) -> Frame:
    image = picture(*things, street=street, wh=wh)
    return Frame(image, camera_id="gate", frame_id=1, time_s=time_s, captured_at=time_s)


def known_ground() -> Ground:
    """The empty street, seen at second 0."""
    ground = Ground()
    ground.look(frame(0), [])
    return ground


def test_an_empty_place_shows_the_ground() -> None:
    assert not known_ground().is_changed(frame(5), PLACE)


def test_something_in_it_is_no_ground() -> None:
    assert known_ground().is_changed(frame(5, PLACE), PLACE)


def test_before_anything_was_seen_nothing_is_known() -> None:
    assert not Ground().is_changed(frame(0, PLACE), PLACE)


def test_a_place_that_was_never_free_is_unknown() -> None:
    ground = Ground()
    ground.look(frame(0, PLACE), [PLACE])

    assert not ground.is_changed(frame(5), PLACE)
    assert not ground.is_changed(frame(5, PLACE), PLACE)


@pytest.mark.parametrize(("known_to_y", "told"), [(125, False), (140, True)])
def test_half_of_a_place_must_be_known(known_to_y: float, told: bool) -> None:
    ground, height = Ground(), 100
    top = known_to_y + 0.15 * height  # what is beside a box counts as occupied too
    ground.look(frame(0), [BoundingBox(200, top, 320, top + height)])

    assert ground.is_changed(frame(5, PLACE), PLACE) is told


def test_what_stands_in_an_occupied_place_is_not_taken_for_the_ground() -> None:
    ground = known_ground()
    for second in range(1, 20):
        ground.look(frame(second, PLACE), [PLACE])

    assert ground.is_changed(frame(20, PLACE), PLACE)
    assert not ground.is_changed(frame(20), PLACE)


def test_nor_is_what_a_detector_leaves_out_at_its_rim() -> None:
    ground, shadow = known_ground(), BoundingBox(200, 160, 320, 169)
    ground.look(frame(1, PLACE, shadow), [PLACE])

    assert not ground.is_changed(frame(2), shadow)


def test_what_reaches_into_a_place_only_at_its_rim_may_be_somebody_elses() -> None:
    beside = BoundingBox(120, 100, 200 + 0.12 * 120, 160)

    assert not known_ground().is_changed(frame(1, beside), PLACE)


def test_the_ground_of_a_free_place_is_learned_anew() -> None:
    """Something was put down there, that is no object, and lies there from then on."""
    ground = known_ground()
    ground.look(frame(5, PLACE), [])

    assert not ground.is_changed(frame(6, PLACE), PLACE)
    assert ground.is_changed(frame(6), PLACE)


def test_light_that_drifts_slowly_changes_no_free_place() -> None:
    ground = known_ground()
    for second in range(1, 60):
        now = frame(second, street=STREET + 3 * second)
        assert not ground.is_changed(now, PLACE)
        ground.look(now, [])


def test_a_little_more_light_while_a_place_is_occupied_does_not_change_it() -> None:
    ground = known_ground()
    for second in range(1, 9):
        ground.look(frame(second, PLACE, street=STREET + second), [PLACE])

    assert not ground.is_changed(frame(9, street=STREET + 8), PLACE)


def test_one_look_in_a_second_is_enough() -> None:
    ground = known_ground()
    ground.look(frame(0.9, PLACE), [])
    assert ground.is_changed(frame(0.9, PLACE), PLACE), "too soon to be learned"

    ground.look(frame(1.0, PLACE), [])
    assert not ground.is_changed(frame(1.0, PLACE), PLACE)


def test_time_that_runs_backwards_does_not_stop_the_learning() -> None:
    ground = Ground()
    ground.look(frame(1000), [])
    ground.look(frame(3, PLACE), [])

    assert not ground.is_changed(frame(4, PLACE), PLACE)


def test_a_picture_of_another_size_begins_anew() -> None:
    ground, other = known_ground(), (1280, 720)
    everywhere = BoundingBox(0, 0, *other)
    assert not ground.is_changed(frame(1, everywhere, wh=other), PLACE), "nothing is known of it"

    ground.look(frame(2, wh=other), [PLACE])
    assert not ground.is_changed(frame(3, PLACE, wh=other), PLACE), "what is known is the smaller picture's"
    assert ground.is_changed(frame(3, BoundingBox(900, 500, 1100, 600), wh=other), BoundingBox(900, 500, 1100, 600))
    assert not ground.is_changed(frame(4, PLACE), PLACE), "forgotten"


@pytest.mark.parametrize(
    "place",
    [BoundingBox(-60, 100, 60, 160), BoundingBox(580, 300, 700, 420), BoundingBox(0, 0, 640, 360)],
    ids=["left", "lower right", "all"],
)
def test_a_place_at_the_edge_is_as_good_as_any(place: BoundingBox) -> None:
    ground = known_ground()
    ground.look(frame(1, place), [place])

    assert ground.is_changed(frame(2, place), place)
    assert not ground.is_changed(frame(2), place)


@pytest.mark.parametrize(
    "place",
    [BoundingBox(700, 100, 820, 160), BoundingBox(-200, -90, -80, -30), BoundingBox(200, 500, 320, 560)],
    ids=["right", "above left", "below"],
)
def test_of_a_place_outside_the_picture_nothing_is_told(place: BoundingBox) -> None:
    ground = known_ground()
    ground.look(frame(1, place), [place])

    assert not ground.is_changed(frame(2, PLACE), place)


def test_a_place_without_a_size_is_no_fault() -> None:
    assert not known_ground().is_changed(frame(1, PLACE), BoundingBox(200, 100, 200, 100))
