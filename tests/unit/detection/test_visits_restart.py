from dataclasses import replace

import pytest
from support.tracks import RED, Lane, Row, box

from detector_worker.core.outbox import SavedVisit

PARKED = box(200)
NOW_UTC_S = 1_700_000_100.0


def saved_before(seconds: float, *rows: Row) -> list[SavedVisit]:
    """Visits of a lane of another process, last seen so many seconds before now."""
    before = Lane()
    before.play(50_000, 3, lambda s: rows)
    return [SavedVisit("display;gate", visit, NOW_UTC_S - seconds) for visit in before.tracker.live_visits()]


def restarted(saved: list[SavedVisit]) -> Lane:
    lane = Lane(first_record=100)
    lane.tracker.restore(saved, now_s=10.0, now_utc_s=NOW_UTC_S)
    return lane


def test_a_parked_car_keeps_its_record_over_a_restart() -> None:
    lane = restarted(saved_before(4.0, PARKED))
    lane.play(11, 5, lambda s: [PARKED])

    assert lane.events == []
    assert [visit.record_id for visit in lane.tracker.live_visits()] == ["record-1"]


def test_each_of_several_parked_cars_keeps_its_own_record() -> None:
    left, right = box(100), box(240)
    saved = saved_before(4.0, left, right)
    places = {entry.visit.record_id: entry.visit.bounding_box.x1 for entry in saved}

    lane = restarted(saved)
    lane.play(11, 5, lambda s: [right, left])

    assert lane.events == []
    assert {visit.record_id: visit.bounding_box.x1 for visit in lane.tracker.live_visits()} == places


def test_a_car_that_came_during_the_restart_has_a_record_of_its_own() -> None:
    lane = restarted(saved_before(4.0, PARKED))
    lane.play(11, 2, lambda s: [PARKED, box(420)])

    (visit,) = lane.started
    assert visit.bounding_box.x1 == 420


def test_a_car_that_left_during_the_restart_ends_its_visit() -> None:
    lane = restarted(saved_before(4.0, PARKED))
    lane.play(11, 12, lambda s: [])

    assert lane.ended == ["record-1"]


@pytest.mark.parametrize("away_s", [30.0, 590.0])
def test_a_restart_that_takes_longer_than_the_reentry_time_is_no_absence_of_the_car(away_s: float) -> None:
    lane = restarted(saved_before(away_s, PARKED))
    lane.play(17, 5, lambda s: [PARKED])

    assert lane.events == []


def test_a_car_of_another_colour_in_its_place_after_a_restart_is_another_one() -> None:
    lane = restarted(saved_before(30.0, PARKED))
    lane.play(11, 14, lambda s: [PARKED], colour=RED)

    assert [visit.record_id for visit in lane.started] == ["record-100"]
    assert lane.ended == ["record-1"]


def test_a_camera_that_comes_back_hours_after_the_restart_shows_somebody_else() -> None:
    lane = restarted(saved_before(4.0, PARKED))
    lane.play(10_000, 2, lambda s: [PARKED])

    assert [visit.record_id for visit in lane.started] == ["record-100"]


def test_after_half_an_hour_it_counts_as_another_car() -> None:
    lane = restarted(saved_before(1810.0, PARKED))
    lane.play(11, 2, lambda s: [PARKED])

    assert [visit.record_id for visit in lane.started] == ["record-100"]
    assert lane.ended == ["record-1"]


def test_the_length_of_a_visit_survives_though_the_clock_does_not() -> None:
    saved = saved_before(4.0, PARKED)
    length_s = saved[0].visit.last_s - saved[0].visit.first_s

    (visit,) = restarted(saved).tracker.live_visits()

    assert visit.last_s == 6.0
    assert visit.last_s - visit.first_s == length_s


def test_how_a_car_looks_by_now_is_saved_with_its_visit() -> None:
    before = Lane()
    before.play(0, 3, lambda s: [PARKED])
    (first,) = before.tracker.live_visits()
    before.play(3, 12, lambda s: [PARKED], colour=RED)  # a lamp has been switched on
    (saved,) = before.tracker.live_visits()
    assert first.appearance
    assert saved.appearance != first.appearance

    lane = restarted([SavedVisit("display;gate", saved, NOW_UTC_S - 30)])
    lane.play(11, 14, lambda s: [PARKED], colour=RED)

    assert lane.events == []


def test_a_car_that_a_truck_hides_when_the_worker_is_back_is_waited_for() -> None:
    lane = restarted(saved_before(4.0, PARKED))
    lane.play(11, 60, lambda s: [box(120, 70, w=280, h=140, name="truck")], fps=2)
    lane.play(71, 4, lambda s: [PARKED])

    assert [visit.class_name for visit in lane.started] == ["truck"]
    assert "record-1" not in lane.ended


def test_every_frame_is_looked_at_while_a_car_of_before_the_restart_is_awaited() -> None:
    lane = restarted(saved_before(4.0, PARKED))
    lane.play(11, 8, lambda s: [])
    assert not lane.tracker.at_rest()

    lane.play(19, 5, lambda s: [])
    assert lane.tracker.at_rest()


def test_a_visit_that_no_frame_has_shown_since_the_restart_is_told_to_have_ended_with_the_lane() -> None:
    lane = restarted(saved_before(4.0, PARKED))
    lane.finish()

    assert lane.ended == ["record-1"]
    assert lane.tracker.live_visits() == []


def test_a_visit_whose_pipeline_was_interrupted_begins_once_more_under_its_number() -> None:
    (saved,) = saved_before(4.0, PARKED)
    lane = restarted([replace(saved, is_complete=False)])
    assert lane.tracker.interrupted_visits() == {"record-1"}
    lane.play(11, 5, lambda s: [box(202)])

    (again,) = lane.started
    assert lane.tracker.interrupted_visits() == set()
    assert (again.record_id, again.captured_at) == (saved.visit.record_id, saved.visit.captured_at)
    assert again.bounding_box.x1 == 202  # where it is in the frame that the pipeline is given
    assert again.shots
    lane.play(16, 3, lambda s: [])
    lane.play(19, 3, lambda s: [PARKED])
    assert lane.started == [again]
