import pytest
from support.tracks import GREY, RED, WHITE, Lane, Row, box

from detector_worker.core.entities import BoundingBox, VisitStarted
from detector_worker.models.pipeline_config import StabilityConfig

PARKED = box(200)


def test_a_car_that_drives_through_is_one_visit_that_begins_and_ends_once() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [box(-120 + 300 * s)])
    lane.play(3, 12, lambda s: [])

    assert [visit.record_id for visit in lane.started] == ["record-1"]
    assert lane.ended == ["record-1"]


def test_a_visit_begins_with_the_frame_that_makes_it_stable() -> None:
    lane = Lane(stability=StabilityConfig(min_frames=4, min_seconds=0.5))

    begun = [bool(lane.see(step / 5, PARKED)) for step in range(6)]

    assert begun == [False, False, False, True, False, False]
    (visit,) = lane.started
    assert (visit.frame_id, visit.first_s, visit.last_s) == (4, 0.0, 0.6)
    assert visit.captured_at == pytest.approx(1_700_000_000.6)
    assert visit.bounding_box == BoundingBox(200, 100, 320, 160)


def test_a_car_parked_for_an_hour_is_one_visit() -> None:
    lane = Lane()
    lane.play(0, 3600, lambda s: [PARKED] if s % 7 < 6 else [], fps=0.25)

    assert len(lane.started) == 1
    assert lane.ended == []
    assert lane.tracker.live_visits()[0].last_s == pytest.approx(3597, abs=3)


def test_two_cars_at_once_are_two_visits() -> None:
    lane = Lane()
    lane.play(0, 2, lambda s: [box(-40 + 200 * s, 60), box(500 - 200 * s, 200)])

    assert len(lane.started) == 2


def test_a_car_hidden_by_a_passing_truck_is_not_recorded_again() -> None:
    lane = Lane()
    lane.play(0, 2, lambda s: [PARKED])
    lane.play(2, 5, lambda s: [box(-100 + 140 * s, 80, w=260, h=120, name="truck")])
    lane.play(7, 3, lambda s: [PARKED])

    assert [visit.class_name for visit in lane.started] == ["car", "truck"]


def test_something_seen_in_too_few_frames_is_no_visit() -> None:
    lane = Lane()
    lane.play(0, 0.6, lambda s: [PARKED])
    lane.finish()

    assert lane.events == []


def test_a_car_that_is_driving_in_begins_its_visit_once_it_is_there() -> None:
    lane = Lane(stability=StabilityConfig(min_frames=2, min_seconds=0.1))
    lane.play(0, 2, lambda s: [box(-110 + 100 * s, w=120)], fps=10)

    (visit,) = lane.started
    assert visit.bounding_box.x1 > 2


def test_a_car_that_stops_half_inside_the_picture_has_its_visit() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [box(min(-60, -110 + 100 * s))], fps=10)

    assert len(lane.started) == 1


def test_a_car_that_turns_back_while_driving_in_is_recorded_with_its_best_picture() -> None:
    lane = Lane(stability=StabilityConfig(min_frames=4, min_seconds=0.3))
    lane.play(0, 0.6, lambda s: [box(-110 + 120 * s)], fps=10)
    assert lane.started == []

    lane.play(0.6, 9, lambda s: [], fps=10)
    assert lane.started == []  # it may come back yet

    lane.play(9.6, 2, lambda s: [], fps=10)

    (visit,) = lane.started
    assert visit.frame_id == visit.shots[0].frame.frame_id
    assert visit.bounding_box == visit.shots[0].detections[0].bounding_box


def test_the_edge_that_counts_is_that_of_the_region() -> None:
    lane = Lane(region=(200, 0, 640, 360), stability=StabilityConfig(min_frames=2, min_seconds=0.1))

    def cut(s: float) -> list[Row]:
        x1, y1, x2, y2, name, p = box(90 + 100 * s)
        return [(max(200.0, x1), y1, x2, y2, name, p)]

    lane.play(0, 2, cut, fps=10)

    (visit,) = lane.started
    assert visit.bounding_box.x1 > 201


def test_the_end_of_a_file_ends_all_visits_and_records_what_was_still_driving_in() -> None:
    lane = Lane(stability=StabilityConfig(min_frames=4, min_seconds=0.3))
    lane.play(0, 2, lambda s: [PARKED], fps=10)
    lane.play(2, 0.6, lambda s: [PARKED, box(-110 + 120 * s, 250)], fps=10)

    lane.finish()

    assert [visit.record_id for visit in lane.started] == ["record-1", "record-2"]
    assert sorted(lane.ended) == ["record-1", "record-2"]
    assert lane.tracker.live_visits() == []


def test_a_visit_begins_with_at_most_three_pictures_best_first() -> None:
    lane = Lane(stability=StabilityConfig(min_frames=10, min_seconds=0.5))
    lane.play(0, 3, lambda s: [box(60 + 50 * s, w=60 + 20 * s, h=30 + 10 * s)], fps=5)

    (visit,) = lane.started
    qualities = [shot.quality for shot in visit.shots]
    assert len(qualities) == 3
    assert qualities == sorted(qualities, reverse=True)
    assert visit.shots[0].frame.frame_id > visit.shots[1].frame.frame_id  # it came nearer
    assert visit.shots[0].detections[0].track_id == visit.track_id


def test_a_whole_picture_is_better_than_a_larger_one_that_is_cut() -> None:
    lane = Lane(stability=StabilityConfig(min_frames=8))
    lane.play(0, 2, lambda s: [box(300, max(0.0, 20 - 25 * s), w=120 + 10 * s)])

    (visit,) = lane.started
    whole = [shot.detections[0].bounding_box.y1 > 2 for shot in visit.shots]
    assert visit.bounding_box.y1 == 0
    assert whole == [True, True, True]


def test_a_visit_that_has_begun_holds_no_pictures() -> None:
    lane = Lane()
    lane.play(0, 4, lambda s: [PARKED])

    assert lane.tracker.live_visits()[0].shots == ()
    assert lane.started[0].shots


def test_few_pictures_are_held_however_many_objects_wait() -> None:
    lane = Lane(required=["plate"])
    lane.play(
        0, 20, lambda s: [box(10 + 150 * i, 20 + 90 * j + s % 3, p=0.5 + s / 50) for i in range(4) for j in range(3)]
    )

    frames = {id(shot.frame) for followed in lane.tracker._followed.values() for shot in followed.shots}
    assert lane.started == []
    assert 0 < len(frames) <= 16


def test_a_group_waits_for_its_required_classes() -> None:
    lane = Lane(expected=["car", "frontal"], required=["CAR", "Frontal"])
    front: Row = (260, 120, 318, 158, "frontal", 0.8)
    lane.play(0, 2, lambda s: [PARKED])
    assert lane.started == []

    lane.play(2, 0.2, lambda s: [PARKED, front])

    (visit,) = lane.started
    assert visit.class_name == "car"
    assert [part.class_name for part in visit.parts] == ["frontal"]
    assert visit.parts[0].track_id == visit.track_id


def test_a_front_inside_its_car_is_no_visit_of_its_own() -> None:
    lane = Lane(expected=["car", "frontal"])
    front: Row = (260, 120, 318, 158, "frontal", 0.8)
    lane.play(0, 4, lambda s: [PARKED, front])
    lane.finish()

    assert [visit.class_name for visit in lane.started] == ["car"]


def test_a_car_passing_before_a_bus_has_its_own_visit() -> None:
    lane = Lane(expected=["car", "bus"])
    bus: Row = (150, 20, 500, 200, "bus", 0.9)
    lane.play(0, 5, lambda s: [bus, box(-120 + 160 * s, 120)])

    assert [visit.class_name for visit in lane.started] == ["bus", "car"]


def test_a_car_that_comes_into_sight_before_a_bus_has_its_own_visit_where_cars_have_been_seen_alone() -> None:
    lane = Lane(expected=["car", "bus"])
    bus: Row = (150, 20, 500, 200, "bus", 0.9)
    lane.play(0, 2, lambda s: [box(500, 250)])
    lane.play(2, 3, lambda s: [bus, box(250, 120)])

    assert sorted(visit.class_name for visit in lane.started) == ["bus", "car", "car"]


def test_the_class_that_most_detections_speak_for_names_the_visit() -> None:
    lane = Lane()
    lane.play(0, 1.2, lambda s: [box(200, name="truck" if s in {0.2, 0.4} else "car")])
    lane.see(1.2, box(200, name="truck"))

    assert [visit.class_name for visit in lane.started] == ["car"]
    assert [visit.class_name for visit in lane.tracker.live_visits()] == ["car"]


def test_of_two_cars_each_plate_goes_with_its_own() -> None:
    lane = Lane()
    left, right = box(100), box(300)
    lane.play(0, 2, lambda s: [left, right, (150, 140, 180, 150, "plate", 0.8), (350, 140, 380, 150, "plate", 0.8)])

    plates = {visit.bounding_box.x1: [part.bounding_box.x1 for part in visit.parts] for visit in lane.started}
    assert plates == {100: [150], 300: [350]}


def test_an_unexpected_class_is_no_visit() -> None:
    lane = Lane(expected=["truck"])
    lane.play(0, 3, lambda s: [PARKED])
    lane.finish()

    assert lane.events == []


def test_a_visit_begins_only_on_a_frame_with_a_trigger_class() -> None:
    lane = Lane(trigger=["PLATE"])
    elsewhere: Row = (500, 300, 530, 310, "plate", 0.8)
    lane.play(0, 2, lambda s: [PARKED])
    assert lane.started == []

    events = lane.see(2.0, PARKED, elsewhere)

    assert [type(event) for event in events] == [VisitStarted]


def test_the_same_car_back_within_the_reentry_time_goes_on_with_its_visit() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED], colour=RED)
    lane.play(3, 6, lambda s: [])
    lane.play(9, 3, lambda s: [box(206)], colour=RED)

    assert len(lane.started) == 1
    assert lane.ended == []
    (visit,) = lane.tracker.live_visits()
    assert visit.last_s == pytest.approx(11.8)
    assert visit.bounding_box.x1 == 206


def test_another_car_on_the_same_place_is_another_visit() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED], colour=RED)
    lane.play(3, 6, lambda s: [])
    lane.play(9, 8, lambda s: [PARKED], colour=WHITE)

    assert len(lane.started) == 2
    assert lane.ended == ["record-1"]


@pytest.mark.parametrize(
    ("row", "why"),
    [(box(420), "elsewhere"), (box(200, name="truck"), "another class"), (box(200, w=40, h=20), "small")],
)
def test_what_comes_back_unlike_it_is_another_visit(row: Row, why: str) -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED], colour=GREY)
    lane.play(3, 6, lambda s: [])
    lane.play(9, 3, lambda s: [row], colour=GREY)

    assert len(lane.started) == 2, why


def test_a_car_back_after_the_reentry_time_is_a_new_visit() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [PARKED])
    lane.play(3, 12, lambda s: [])
    lane.play(15, 3, lambda s: [PARKED])

    assert len(lane.started) == 2


def test_a_visit_does_not_end_while_its_car_may_just_be_coming_back() -> None:
    lane = Lane(stability=StabilityConfig(reentry_seconds=5, min_seconds=1.0))
    lane.play(0, 3, lambda s: [PARKED])
    lane.play(3, 4.4, lambda s: [])
    lane.play(7.4, 3, lambda s: [PARKED])  # stable only after the time has run out, but there before

    assert (len(lane.started), lane.ended) == (1, [])


def test_a_car_that_drove_out_is_not_continued_by_one_that_drives_in_there() -> None:
    lane = Lane()
    lane.play(0, 3, lambda s: [box(300 + 200 * s)] if s < 1.7 else [], fps=10)
    lane.play(3, 4, lambda s: [box(max(400.0, 640 - 200 * s))], fps=10)

    assert len(lane.started) == 2


def test_time_that_runs_backwards_neither_ends_nor_repeats_a_visit() -> None:
    lane = Lane()
    lane.play(100, 3, lambda s: [PARKED])
    lane.play(0, 3, lambda s: [PARKED])
    lane.play(0, 3, lambda s: [PARKED])

    assert (len(lane.started), lane.ended) == (1, [])
    (visit,) = lane.tracker.live_visits()
    assert visit.last_s >= visit.first_s


def test_who_drives_out_is_not_the_one_that_comes_after() -> None:
    """The follower is first seen near where the leader was seen last, half out of the picture, a moment before."""
    lane = Lane()
    lane.play(0, 2, lambda s: [box(200, 60, w=200, h=200)])
    lane.play(2, 3.2, lambda s: [box(200, 60 + 50 * s, w=200, h=200)])
    lane.play(5.2, 1, lambda s: [])
    lane.play(6.2, 3, lambda s: [box(200, 80, w=200, h=150)])

    assert len(lane.started) == 2


def test_who_drove_out_is_not_brought_back_by_an_unsure_glimpse() -> None:
    """The last that the detector makes of the leader is a doubtful box that the edge does not cut."""
    lane = Lane()
    lane.play(0, 2, lambda s: [box(200, 60, w=200, h=200)])
    lane.play(2, 3.2, lambda s: [box(200, 60 + 50 * s, w=200, h=200)])
    lane.see(5.2, box(200, 150, w=200, h=195, p=0.3))
    lane.play(5.4, 1, lambda s: [])
    lane.play(6.4, 3, lambda s: [box(200, 60, w=200, h=150)])

    assert len(lane.started) == 2


def test_who_stands_at_the_edge_and_is_hidden_for_a_moment_is_the_same() -> None:
    """It came in whole and then stopped with its front beyond the picture, as one that drives out would begin."""
    standing = box(200, 280, w=200, h=120)
    lane = Lane()
    lane.play(0, 2, lambda s: [box(200, 80 + 100 * s, w=200, h=120)])
    lane.play(2, 2, lambda s: [standing])
    lane.play(4, 3, lambda s: [])
    lane.play(7, 3, lambda s: [standing])

    assert len(lane.started) == 1


def _truck(y: float) -> list[Row]:
    """A truck with its front at the lower end."""
    return [box(200, y, w=200, h=200, name="truck"), box(210, y + 140, w=180, h=60, name="frontal")]


@pytest.mark.parametrize("last_front_y", [400.0, 330.0], ids=["cut by the edge", "near to the edge"])
def test_a_truck_right_behind_one_that_drives_out_is_another_visit(last_front_y: float) -> None:
    """Their boxes overlap, so the tracker hands the first one's number on; a front that left does not come back."""
    lane = Lane(expected=["truck", "frontal"])
    lane.play(0, 2, lambda s: _truck(60))
    lane.play(2, 2, lambda s: [row for row in _truck(60 + 60 * s) if row[1] < last_front_y])
    lane.play(4, 3, lambda s: _truck(100))

    assert [visit.track_id for visit in lane.started] == [lane.started[0].track_id] * 2
    assert len({visit.record_id for visit in lane.started}) == 2


def test_a_truck_that_stands_over_the_edge_stays_one_visit_though_another_front_is_seen_in_its_box() -> None:
    standing = box(200, 170, w=200, h=190, name="truck")
    lane = Lane(expected=["truck", "frontal"])
    lane.play(0, 2, lambda s: _truck(60))
    lane.play(2, 1, lambda s: _truck(60 + 110 * s))
    lane.play(3, 3, lambda s: [standing, box(210, 330, w=180, h=40, name="frontal")])
    lane.play(6, 0.4, lambda s: [standing, box(210, 200, w=180, h=60, name="frontal")])
    lane.play(6.4, 3, lambda s: [standing])

    assert len(lane.started) == 1
