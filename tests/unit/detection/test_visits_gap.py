"""Nobody looked for a while, and who is there afterwards looks the same: place and stage tell who it is."""

import pytest
from support.tracks import RED, Lane, box

from detector_worker.core.outbox import SavedVisit
from detector_worker.detection.appearance import NUMBERS
from detector_worker.models.pipeline_config import StabilityConfig

STANDING = box(200)
NOW_UTC_S = 1_700_000_100.0


def lane_with_one_that_stands(seconds: float = 5.0) -> Lane:
    lane = Lane()
    lane.play(0, seconds, lambda s: [STANDING])
    return lane


def lane_with_one_that_drives_off() -> Lane:
    """It stands for five seconds, and is on its way when it is seen last, at x = 270."""
    lane = lane_with_one_that_stands()
    lane.play(5, 1.6, lambda s: [box(200 + 50 * s)])
    return lane


def restarted_after(lane: Lane, seconds: float) -> Lane:
    """A lane of another process, which knows the visits of the first as they were saved."""
    saved = [SavedVisit("display;gate", visit, NOW_UTC_S - seconds) for visit in lane.tracker.live_visits()]
    other = Lane(first_record=100)
    other.tracker.restore(saved, now_s=10.0, now_utc_s=NOW_UTC_S)
    return other


@pytest.mark.parametrize(("x", "records"), [(205, 1), (240, 2)], ids=["in its place", "half a length further"])
def test_who_stood_is_in_his_very_place_after_an_outage(x: float, records: int) -> None:
    lane = lane_with_one_that_stands()
    lane.play(15, 5, lambda s: [box(x)])

    assert len(lane.started) == records


@pytest.mark.parametrize(("x", "records"), [(205, []), (240, ["record-100"])])
def test_who_stood_is_in_his_very_place_after_a_restart(x: float, records: list[str]) -> None:
    lane = restarted_after(lane_with_one_that_stands(), 4.0)
    lane.play(11, 5, lambda s: [box(x)])

    assert [visit.record_id for visit in lane.started] == records


def test_who_was_driving_off_is_gone_after_a_restart_and_another_one_is_there() -> None:
    leaving = lane_with_one_that_drives_off()
    (visit,) = leaving.tracker.live_visits()
    assert visit.stage == "leaving"

    lane = restarted_after(leaving, 4.0)
    lane.play(11, 5, lambda s: [box(275)])

    assert [visit.record_id for visit in lane.started] == ["record-100"]


def test_who_was_still_arriving_is_taken_for_itself_where_it_stops() -> None:
    arriving = Lane()
    arriving.play(0, 1.4, lambda s: [box(60 + 100 * s)])
    (visit,) = arriving.tracker.live_visits()
    assert visit.stage == "arriving"

    lane = restarted_after(arriving, 4.0)
    lane.play(11, 5, lambda s: [box(230)])

    assert lane.started == []


def test_who_goes_on_after_a_moment_of_rest_is_still_arriving() -> None:
    lane = Lane()
    lane.play(0, 1.6, lambda s: [STANDING])
    lane.play(1.6, 0.6, lambda s: [box(220 + 80 * s)])

    assert lane.tracker.live_visits()[0].stage == "arriving"


def test_who_has_crept_on_since_it_stopped_stands_and_is_not_leaving() -> None:
    lane = Lane()
    lane.play(0, 6, lambda s: [box(200 + min(30.0, 5 * s))])

    assert lane.tracker.live_visits()[0].stage == "standing"


def test_the_place_is_where_it_came_to_rest_not_where_it_slowed_down() -> None:
    """From there on a tenth of its length is no move, though it is far from where it was slow first."""
    lane = Lane()
    lane.play(0, 8, lambda s: [box(200 + (10 if s > 0.4 else 0))])
    lane.play(8, 3, lambda s: [box(218)])

    assert lane.tracker.live_visits()[0].stage == "standing"


def test_a_number_that_goes_over_to_another_one_elsewhere_takes_no_visit_along() -> None:
    """The parked car is lost under another one, whose box its track takes up."""
    lane = lane_with_one_that_stands()
    for step, x in enumerate(range(215, 330, 23)):  # never half its size from frame to frame: one track
        lane.see(5 + step / 5, (x, 100.0, x + 120.0, 160.0, "car", 0.3))  # unsure all the way
    lane.play(6, 3, lambda s: [box(330)], colour=RED)

    assert [visit.record_id for visit in lane.started] == ["record-1", "record-2"]


def test_a_saved_visit_knows_more_than_its_last_look() -> None:
    before = lane_with_one_that_stands(3)
    before.play(3, 14, lambda s: [STANDING], colour=RED)  # something in front of it that nobody knows
    lane = restarted_after(before, 4.0)
    lane.play(11, 5, lambda s: [STANDING])

    assert lane.started == []


def test_a_visit_that_is_owed_keeps_one_look_of_its_best_picture() -> None:
    lane = Lane(stability=StabilityConfig(min_frames=4, min_seconds=0.3))
    lane.play(0, 0.6, lambda s: [box(-110 + 120 * s)], fps=10)
    lane.play(0.6, 12, lambda s: [], fps=10)

    (visit,) = lane.started
    assert len(visit.appearance) == NUMBERS
