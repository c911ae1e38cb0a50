"""What is no object itself, such as people, stands before one: the picture of its place tells it from an empty one."""

import pytest
from support.tracks import DARK, GREY, RED, Lane, Paint, Row, box

from detector_worker.models.pipeline_config import StabilityConfig

PARKED = box(200)
PEOPLE: Paint = (box(190, 60, w=140, h=110), DARK)
"""Before the parked car; no detector knows them."""


def lane_with_a_parked_car() -> Lane:
    """The place was seen empty before; the car has stood there for three seconds by second 5."""
    lane = Lane()
    lane.play(0, 2, lambda s: [])
    lane.play(2, 3, lambda s: [PARKED])
    return lane


def test_a_parked_car_that_people_hide_for_longer_than_the_reentry_time_is_one_visit() -> None:
    lane = lane_with_a_parked_car()
    lane.play(5, 30, lambda s: [], fps=2, over=[PEOPLE])
    lane.play(35, 4, lambda s: [PARKED])

    assert len(lane.started) == 1
    assert lane.ended == []
    assert lane.tracker.live_visits()[0].last_s == pytest.approx(38.8)


def test_a_place_that_is_seen_empty_for_longer_than_the_reentry_time_ends_the_visit() -> None:
    lane = lane_with_a_parked_car()
    lane.play(5, 12, lambda s: [])
    assert lane.ended == ["record-1"]

    lane.play(17, 4, lambda s: [PARKED])
    assert [visit.record_id for visit in lane.started] == ["record-1", "record-2"]


def test_a_place_that_is_seen_empty_in_another_light_is_empty() -> None:
    """The street has become lighter while the car stood on it, the empty place with it."""
    street = box(0, 0, w=640, h=360)
    lane = lane_with_a_parked_car()
    for level in range(60, 90):
        lane.play(level - 55, 1, lambda s: [PARKED], fps=2, over=[(street, (level,) * 3), (PARKED, GREY)])
    lane.play(35, 13, lambda s: [], over=[(street, (90, 90, 90))])

    assert lane.ended == ["record-1"]


def test_the_archives_reentry_time_rules_where_the_place_is_seen_empty() -> None:
    lane = Lane(stability=StabilityConfig(reentry_seconds=25))
    lane.play(0, 2, lambda s: [])
    lane.play(2, 3, lambda s: [PARKED])
    lane.play(5, 23, lambda s: [])
    lane.play(28, 4, lambda s: [PARKED])

    assert (len(lane.started), lane.ended) == (1, [])


def test_the_reentry_time_runs_from_when_the_people_have_gone() -> None:
    lane = lane_with_a_parked_car()
    lane.play(5, 30, lambda s: [], fps=2, over=[PEOPLE])
    lane.play(35, 9, lambda s: [])
    assert lane.ended == []

    lane.play(44, 3, lambda s: [])
    assert lane.ended == ["record-1"]


def test_what_hides_it_for_longer_than_two_minutes_is_no_passer_by() -> None:
    lane = lane_with_a_parked_car()
    lane.play(5, 118, lambda s: [], fps=2, over=[PEOPLE])
    assert lane.ended == []

    lane.play(123, 20, lambda s: [], fps=2, over=[PEOPLE])
    assert lane.ended == ["record-1"]


def test_the_two_minutes_begin_anew_after_another_object_has_hidden_it() -> None:
    lane, truck = lane_with_a_parked_car(), box(120, 70, w=280, h=140, name="truck")
    lane.play(5, 100, lambda s: [], fps=2, over=[PEOPLE])
    lane.play(105, 10, lambda s: [truck], fps=2)
    lane.play(115, 100, lambda s: [], fps=2, over=[PEOPLE])

    assert "record-1" not in lane.ended


def test_another_that_has_taken_the_place_does_not_hide_it() -> None:
    lane = lane_with_a_parked_car()
    lane.play(5, 3, lambda s: [])
    lane.play(8, 20, lambda s: [box(190, 95, w=140, h=65)], colour=RED)

    assert [visit.record_id for visit in lane.started] == ["record-1", "record-2"]
    assert lane.ended == ["record-1"]


def test_what_drove_by_is_not_waited_for_though_people_walk_where_it_was_seen_last() -> None:
    lane = Lane()
    lane.play(0, 2, lambda s: [])
    lane.play(2, 2, lambda s: [box(60 + 120 * s)])
    lane.play(4, 14, lambda s: [], over=[(box(200, 60, w=300, h=110), DARK)])

    assert lane.ended == ["record-1"]


@pytest.mark.parametrize("goes_behind_them", ["from the right", "from below"])
def test_a_box_that_shrinks_from_one_side_stands_and_is_being_hidden(goes_behind_them: str) -> None:
    """People walk before the parked car: of its box less and less is left, until it is gone."""

    def what_is_left(s: float) -> list[Row]:
        gone = min(0.7, 0.6 * s)
        return [box(200, w=120 * (1 - gone))] if goes_behind_them == "from the right" else [box(200, h=60 * (1 - gone))]

    lane = lane_with_a_parked_car()
    lane.play(5, 1.2, what_is_left)
    lane.play(6.2, 30, lambda s: [], fps=2, over=[PEOPLE])
    lane.play(36.2, 4, lambda s: [PARKED])

    assert (len(lane.started), lane.ended) == (1, [])


def test_a_box_that_the_edge_cuts_shrinks_since_it_drives_out() -> None:
    """Its lower side stays at the edge while the upper one follows: it is leaving, and the next one is another."""
    lane = Lane()
    lane.play(0, 2, lambda s: [box(200, 130, w=200, h=220)])
    lane.play(2, 3, lambda s: [box(200, 130 + 50 * s, w=200, h=220)])
    lane.play(5, 3, lambda s: [])
    lane.play(8, 3, lambda s: [box(200, 130, w=200, h=220)])

    assert len(lane.started) == 2
