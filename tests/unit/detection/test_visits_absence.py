"""Nobody could see an object for a while: something stood before it, or the camera was away."""

import pytest
from support.tracks import GREY, RED, Lane, Row, box

PARKED = box(200)
TRUCK = box(120, 70, w=280, h=140, name="truck")
"""Before the parked car: it hides it, and stands lower in the picture."""


def test_a_parked_car_that_a_truck_hides_for_minutes_is_not_recorded_again() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED])
    lane.play(3, 300, lambda s: [TRUCK], fps=2)
    lane.play(303, 3, lambda s: [PARKED])

    assert [visit.class_name for visit in lane.started] == ["car", "truck"]
    assert "record-1" not in lane.ended


def test_a_hidden_car_that_is_gone_when_the_truck_leaves_ends_its_visit() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED])
    lane.play(3, 60, lambda s: [TRUCK], fps=2)
    lane.play(63, 12, lambda s: [])

    assert sorted(lane.ended) == ["record-1", "record-2"]


def test_who_takes_the_place_of_one_that_has_gone_does_not_hide_it() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED])
    lane.play(3, 3, lambda s: [])
    lane.play(6, 20, lambda s: [box(190, 95, w=140, h=65)], colour=RED)

    assert lane.ended == ["record-1"]
    assert len(lane.started) == 2


def test_what_stands_behind_hides_nothing() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED])
    lane.play(3, 20, lambda s: [box(120, 20, w=280, h=139, name="truck")])

    assert lane.ended == ["record-1"]


@pytest.mark.parametrize("away_s", [5.0, 600.0])
def test_a_camera_that_is_away_is_no_absence_of_the_car(away_s: float) -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED])
    lane.see(3.0 + away_s)  # the first picture shows it badly
    lane.play(3.2 + away_s, 5, lambda s: [PARKED])

    assert len(lane.started) == 1
    assert lane.ended == []
    assert lane.tracker.live_visits()[0].duration_s == pytest.approx(8.0 + away_s)


def test_another_car_in_the_place_after_an_outage_is_another_visit() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED])
    lane.play(60, 14, lambda s: [PARKED], colour=RED)

    assert [visit.record_id for visit in lane.started] == ["record-1", "record-2"]
    assert lane.ended == ["record-1"]


def test_a_car_that_changes_its_colour_before_our_eyes_is_the_same() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED])
    lane.play(3, 30, lambda s: [PARKED], colour=RED)  # a lamp has been switched on
    lane.play(45, 5, lambda s: [PARKED], colour=RED)

    assert len(lane.started) == 1


def test_a_car_that_is_hidden_in_part_when_the_camera_comes_back_is_looked_at_once_it_is_clear() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED])
    before: Row = box(180, 130, w=120, h=100, name="truck")
    lane.play(60, 4, lambda s: [PARKED, before], colour=RED)
    lane.play(64, 4, lambda s: [PARKED], colour=GREY)

    assert [visit.class_name for visit in lane.started] == ["car", "truck"]


def test_frames_that_were_passed_over_are_no_outage() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED])
    for step in range(100):
        lane.tracker.pass_over(3 + step / 2)
    lane.play(53.0, 3, lambda s: [PARKED], colour=RED)  # whoever watches would have seen it go

    assert len(lane.started) == 1
