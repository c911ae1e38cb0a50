"""One frame's detections as what is seen of each object."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from support.tracks import WH, Row, box, detections

from detector_worker.core.entities import BoundingBox
from detector_worker.detection.sights import Sight, sights_in

PICTURE = BoundingBox(0, 0, *WH)
CAR = box(200, w=200, h=100)
PLATE: Row = (280, 170, 320, 185, "plate", 0.9)
FRONT: Row = (300, 130, 395, 195, "frontal", 0.9)


def sights(
    *rows: Row, ids: list[int] | None = None, parts: NDArray[np.bool_] | None = None, bounds: BoundingBox = PICTURE
) -> dict[int, Sight]:
    """By track; numbered 1 and on in the order of the rows, and each may be a part, unless told otherwise."""
    tracked = replace(detections(*rows), track_id=np.array(ids or range(1, len(rows) + 1), np.int64))
    may_be_part = np.ones(len(rows), np.bool_) if parts is None else parts
    found = list(sights_in(tracked, can_be_part=may_be_part, least_confidence=0.5, bounds=bounds, captured_at=7.0))
    assert len({sight.track_id for sight in found}) == len(found)
    return {sight.track_id: sight for sight in found}


def test_an_empty_frame_shows_nothing() -> None:
    assert sights() == {}


def test_an_object_is_told_as_it_was_detected() -> None:
    sight = sights(CAR, ids=[12])[12]

    assert sight.seen.class_name == "car"
    assert sight.seen.bounding_box == BoundingBox(200, 100, 400, 200)
    assert (sight.seen.track_id, sight.seen.timestamp) == (12, 7.0)
    assert sight.is_sure
    assert (sight.is_inside, sight.is_hidden, sight.is_cut, sight.parts) == (False, False, False, ())


def test_what_has_no_track_is_nobody() -> None:
    assert sights(CAR, box(20, p=0.3), ids=[1, -1]).keys() == {1}


def test_a_part_is_told_with_its_whole_and_by_itself() -> None:
    found = sights(CAR, PLATE)

    (plate,) = found[1].parts
    assert (plate.class_name, plate.bounding_box, plate.track_id) == ("plate", BoundingBox(280, 170, 320, 185), 1)
    assert found[2].is_inside
    assert not found[1].is_inside
    assert found[2].seen.track_id == 2


def test_all_parts_go_to_the_one_whole() -> None:
    """The plate lies in the front too, which is itself a part of the car."""
    found = sights(FRONT, (330, 170, 370, 185, "plate", 0.9), CAR)

    assert [part.class_name for part in found[3].parts] == ["frontal", "plate"]
    assert {part.track_id for part in found[3].parts} == {3}
    assert found[1].parts == ()


def test_of_two_cars_each_has_its_own_plate() -> None:
    other = box(420, w=200, h=100)
    found = sights(CAR, other, (480, 170, 520, 185, "plate", 0.9), PLATE)

    assert [part.bounding_box.x1 for part in found[1].parts] == [280]
    assert [part.bounding_box.x1 for part in found[2].parts] == [480]


def test_an_unsure_part_is_not_told() -> None:
    found = sights(CAR, (*PLATE[:5], 0.4))

    assert found[1].parts == ()
    assert found[2].is_inside
    assert not found[2].is_sure


def test_an_untracked_part_belongs_to_its_whole_all_the_same() -> None:
    found = sights(CAR, PLATE, ids=[1, -1])

    assert [part.class_name for part in found[1].parts] == ["plate"]


def test_what_cannot_be_a_part_stands_for_itself() -> None:
    bus: Row = (150, 20, 600, 250, "bus", 0.9)
    found = sights(bus, CAR, parts=np.array([False, False]))

    assert found[1].parts == ()
    assert not found[2].is_inside


def test_what_stands_before_an_object_hides_it() -> None:
    found = sights(CAR, box(350, 130, w=200, h=100, name="truck"))

    assert found[1].is_hidden
    assert not found[2].is_hidden


def test_an_unsure_detection_hides_nothing() -> None:
    assert not sights(CAR, box(350, 130, w=200, h=100, p=0.4))[1].is_hidden


def test_the_edge_that_cuts_is_that_of_what_is_looked_at() -> None:
    assert not sights(CAR)[1].is_cut
    assert sights(CAR, bounds=BoundingBox(200, 0, 640, 360))[1].is_cut
    assert sights(box(-30))[1].is_cut
