"""When a lane's objects are such that another look at the same picture would change nothing."""

from support.tracks import Lane, box

from detector_worker.models.pipeline_config import StabilityConfig

PARKED = box(200)


def settled_lane(*required: str) -> Lane:
    lane = Lane(required=required)
    lane.play(0, 3, lambda s: [PARKED])
    return lane


def test_before_the_first_frame_nothing_is_known() -> None:
    assert not Lane().tracker.at_rest()


def test_an_empty_scene_is_at_rest() -> None:
    lane = Lane()
    lane.see(0)
    assert lane.tracker.at_rest()


def test_a_car_is_watched_until_it_has_its_visit_and_stands() -> None:
    lane = Lane(stability=StabilityConfig(min_frames=4, min_seconds=2.0))
    at_rest = []
    for step in range(15):
        lane.see(step / 5, PARKED)
        at_rest.append(lane.tracker.at_rest())

    assert at_rest == [False] * 10 + [True] * 5


def test_a_car_with_a_visit_is_watched_while_it_drives() -> None:
    lane = settled_lane()
    assert lane.tracker.at_rest()
    for step in range(10):
        lane.see(3 + step / 5, box(200 + 40 * step))
    assert not lane.tracker.at_rest()


def test_a_car_that_is_missing_is_watched_until_nobody_waits_for_it_any_more() -> None:
    lane = settled_lane()
    lane.see(3)
    assert not lane.tracker.at_rest(), "missing"
    lane.play(3.2, 4, lambda s: [])
    assert not lane.tracker.at_rest(), "lost, it may come back"
    lane.play(7.2, 8, lambda s: [])
    assert lane.tracker.at_rest()


def test_a_car_that_stands_without_what_makes_it_a_visit_is_at_rest() -> None:
    assert settled_lane("plate").tracker.at_rest()


def test_an_unsure_car_that_stands_is_watched_only_while_it_may_begin_a_visit() -> None:
    lane = Lane()
    lane.see(0, PARKED)
    lane.play(0.2, 3, lambda s: [box(200, p=0.3)])
    assert not lane.tracker.at_rest(), "stable: one sure look is enough for its visit"
    lane.play(3.2, 2, lambda s: [PARKED])
    lane.play(5.2, 2, lambda s: [box(200, p=0.3)])
    assert lane.tracker.at_rest()
