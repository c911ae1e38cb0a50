"""Nobody could see an object for a while: something stood before it, or the camera was away."""

import pytest
from support.tracks import GREY, RED, WHITE, Lane, Row, box

from detector_worker.models.pipeline_config import StabilityConfig

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


@pytest.mark.parametrize(
    "fps",
    [
        0.5,
        0.2,
    ],
)
def test_a_camera_of_few_pictures_sees_a_car_go_too(fps: float) -> None:
    """One every five seconds, as a camera for snapshots may be set to, is no outage after each of them."""
    lane = Lane()
    lane.play(0, 60, lambda s: [PARKED], fps=fps)
    lane.play(60, 60, lambda s: [], fps=fps)

    assert lane.ended == ["record-1"]


def test_a_car_still_looks_as_it_did_before_the_last_looks_at_it() -> None:
    """The lamp that was switched on went out while the camera was away."""
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED])
    lane.play(3, 20, lambda s: [PARKED], colour=RED)
    lane.play(90, 5, lambda s: [PARKED], colour=GREY)

    assert len(lane.started) == 1


def test_but_not_as_it_did_long_ago() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED])
    lane.play(3, 42, lambda s: [PARKED], colour=RED)
    lane.play(90, 5, lambda s: [PARKED], colour=GREY)

    assert len(lane.started) == 2


def driving_in(s: float) -> list[Row]:
    """For 0.6 s: stable by then, but its box still grows."""
    return [box(-110 + 120 * s)]


def test_a_car_lost_before_its_visit_began_that_comes_back_is_one_visit_from_its_first_sight_on() -> None:
    lane = Lane(stability=StabilityConfig(min_frames=4, min_seconds=0.3))
    lane.play(0, 0.6, driving_in, fps=10)
    lane.play(0.6, 4, lambda s: [], fps=10)
    assert lane.started == [], "it may come back yet"
    lane.play(4.6, 3, lambda s: [box(0)], fps=10)
    lane.play(7.6, 20, lambda s: [], fps=10)

    (visit,) = lane.started
    assert visit.first_s == 0
    assert visit.bounding_box.x1 == 0
    assert len(visit.shots) <= 3
    assert lane.ended == ["record-1"]


def test_a_car_lost_before_its_visit_began_that_stays_away_is_recorded_once_with_its_best_picture() -> None:
    lane = Lane(stability=StabilityConfig(min_frames=4, min_seconds=0.3))
    lane.play(0, 0.6, driving_in, fps=10)
    lane.play(0.6, 30, lambda s: [], fps=10)
    lane.finish()

    (visit,) = lane.started
    assert lane.ended == ["record-1"]
    best = max(visit.shots, key=lambda shot: shot.quality)
    assert visit.frame_id == best.frame.frame_id
    assert visit.bounding_box == best.detections[0].bounding_box


def test_a_car_lost_before_its_visit_began_is_not_the_one_of_another_colour_that_comes_then() -> None:
    lane = Lane(stability=StabilityConfig(min_frames=4, min_seconds=0.3))
    lane.play(0, 0.6, driving_in, fps=10, colour=RED)
    lane.play(0.6, 4, lambda s: [], fps=10)
    lane.play(4.6, 3, lambda s: [box(0)], fps=10, colour=WHITE)
    lane.finish()

    assert len(lane.started) == 2


def test_a_car_that_is_back_holds_no_pictures() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED])
    lane.play(3, 4, lambda s: [])
    lane.play(7, 3, lambda s: [PARKED])

    assert [(one.visit is not None, one.shots) for one in lane.tracker._followed.values()] == [(True, [])]


def test_which_of_two_alike_is_the_one_come_back_is_not_a_matter_of_the_detections_order() -> None:
    here, beside = box(170), box(255, 165)
    continued = []
    for rows in ([here, beside], [beside, here]):
        lane = Lane()
        lane.play(0, 3, lambda s: [box(200, 130)])
        lane.play(3, 4, lambda s: [])
        for step in range(15):
            lane.see(7 + step / 5, *rows)
        continued += [visit.bounding_box.x1 for visit in lane.tracker.live_visits() if visit.record_id == "record-1"]

    assert continued[0] == continued[1]
