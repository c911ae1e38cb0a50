"""The tracker hands one object's number to another, or another comes that looks the same."""

import pytest
from support.tracks import GREY, RED, Lane, Paint, Row, box

PLACE = box(430)
BEHIND = box(485, 96)
"""It overlaps with the place, and stands a little farther away."""


def test_of_two_that_come_out_of_one_box_each_has_its_own_visit() -> None:
    """The follower has driven up close and gets the leader's number; the leader is seen for a moment only."""
    lane = Lane()
    lane.play(0, 3, lambda s: [PLACE])
    lane.play(3, 0.4, lambda s: [PLACE, BEHIND], over=[(BEHIND, GREY), (PLACE, RED)])
    lane.play(3.4, 4, lambda s: [PLACE], colour=RED)

    assert [visit.record_id for visit in lane.started] == ["record-1", "record-2"]
    (follower,) = (one for one in lane.tracker.live_visits() if one.record_id == "record-2")
    assert follower.first_s >= 3
    assert follower.last_s == pytest.approx(7.2)
    assert follower.bounding_box.x1 == 430


def test_the_leader_keeps_its_record_under_its_new_number() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PLACE])
    for step in range(10):
        leader = box(485 + 5 * step, 96)
        lane.see(3 + step / 5, PLACE, leader, over=[(leader, GREY), (PLACE, RED)])

    numbers = {visit.record_id: visit.track_id for visit in lane.tracker.live_visits()}
    assert numbers == {"record-1": 2, "record-2": 1}


def test_who_comes_close_is_no_reason_to_part_with_one_that_looks_as_before() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PLACE])
    both: list[Paint] = [(BEHIND, RED), (PLACE, GREY)]
    for step in range(20):
        lane.see(3 + step / 5, PLACE, BEHIND, over=both)
        assert lane.tracker.live_visits()[0].last_s == pytest.approx(3 + step / 5), "in sight all the time"

    numbers = {visit.record_id: visit.track_id for visit in lane.tracker.live_visits()}
    assert numbers == {"record-1": 1, "record-2": 2}


def test_another_class_that_comes_close_casts_no_doubt() -> None:
    """The light changes in the same moment: whoever is watched all the time is believed."""
    truck_behind = box(485, 96, name="truck")
    lane = Lane()
    lane.play(0, 3, lambda s: [PLACE])
    lane.play(3, 4, lambda s: [truck_behind, PLACE], colour=RED)

    assert [visit.class_name for visit in lane.started] == ["car", "truck"]


def test_a_car_that_jumps_farther_than_the_tracker_believes_goes_on_under_its_new_number_alone() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [box(200)])
    lane.play(3, 1.4, lambda s: [box(283)])

    assert [(visit.record_id, visit.track_id) for visit in lane.tracker.live_visits()] == [("record-1", 2)]

    lane.play(4.4, 14, lambda s: [])
    assert (len(lane.started), lane.ended) == (1, ["record-1"])


def truck(y: float) -> list[Row]:
    """A truck with its front at the lower end."""
    return [box(200, y, w=200, h=200, name="truck"), box(210, y + 140, w=180, h=60, name="frontal")]


def test_a_truck_whose_front_had_gone_over_the_edge_is_not_the_like_one_that_drives_in_after_it_was_lost() -> None:
    """The first stood there with its front beyond the edge, so it is waited for; the other's front is in full sight."""
    lane = Lane(expected=["truck", "frontal"])
    lane.play(0, 2, lambda s: truck(60))
    lane.play(2, 1.2, lambda s: truck(60 + 100 * s))
    lane.play(3.2, 3, lambda s: [truck(170)[0]])
    lane.play(6.2, 3, lambda s: [])
    lane.play(9.2, 3, lambda s: truck(100))

    assert [visit.class_name for visit in lane.started] == ["truck", "truck"]


def test_but_the_same_truck_with_its_front_still_over_the_edge_is() -> None:
    lane = Lane(expected=["truck", "frontal"])
    lane.play(0, 2, lambda s: truck(60))
    lane.play(2, 1.2, lambda s: truck(60 + 100 * s))
    lane.play(3.2, 3, lambda s: [truck(170)[0]])
    lane.play(6.2, 3, lambda s: [])
    lane.play(9.2, 3, lambda s: [truck(170)[0]])

    assert [visit.class_name for visit in lane.started] == ["truck"]
