import math
from collections.abc import Sequence

import pytest
from support.tracks import Row, box, detections

from detector_worker.core.entities import BoundingBox, Detections
from detector_worker.detection.tracking_manager import TrackingManager, unsure_confidence

PICTURE = BoundingBox(0, 0, 640, 360)


def ids_over_time(
    manager: TrackingManager, frames: Sequence[Sequence[Row]], *, fps: float, bounds: BoundingBox = PICTURE
) -> list[list[int]]:
    ids = []
    for number, rows in enumerate(frames):
        tracked = manager.update_tracks(detections(*rows), number, time_s=number / fps, bounds=bounds)
        assert tracked.track_id is not None
        ids.append(tracked.track_id.tolist())
    return ids


@pytest.mark.parametrize("fps", [3, 5, 10, 25])
def test_a_car_that_crosses_the_picture_in_two_seconds_is_one_track_at_any_rate(fps: int) -> None:
    frames = [[box(-60 + 320 * step / fps)] for step in range(2 * fps)]

    assert ids_over_time(TrackingManager(), frames, fps=fps) == [[1]] * len(frames)


def test_cars_that_meet_on_neighbouring_lanes_keep_their_numbers() -> None:
    frames = [[box(20 * step, 100), box(480 - 20 * step, 130)] for step in range(24)]

    assert ids_over_time(TrackingManager(), frames, fps=10) == [[1, 2]] * 24


def test_two_cars_one_behind_the_other_keep_their_numbers_at_a_low_rate() -> None:
    frames = [[box(60 * step, 100), box(60 * step - 200, 100)] for step in range(4, 9)]

    numbers = ids_over_time(TrackingManager(), frames, fps=5)

    assert numbers == [numbers[0]] * len(frames)
    assert len(set(numbers[0])) == 2


def test_a_car_hidden_for_a_second_keeps_its_number() -> None:
    frames = [[] if 8 <= step < 18 else [box(10 * step)] for step in range(30)]

    numbers = ids_over_time(TrackingManager(), frames, fps=10)

    assert {number for frame in numbers for number in frame} == {1}


def test_a_car_hidden_for_longer_than_allowed_gets_a_new_number() -> None:
    manager = TrackingManager(max_lost_seconds=1.0)
    frames = [[] if 8 <= step < 25 else [box(200)] for step in range(30)]

    numbers = ids_over_time(manager, frames, fps=10)

    assert numbers[0] == [1]
    assert numbers[-1] == [2]


def test_frames_that_were_not_analysed_do_not_count_as_missing() -> None:
    manager = TrackingManager(max_lost_seconds=2.0)
    for number, time_s in enumerate((0.0, 0.2, 0.4, 30.0, 60.0)):
        tracked = manager.update_tracks(detections(box(200)), number, time_s=time_s)

    assert tracked.track_id is not None
    assert tracked.track_id.tolist() == [1]


def test_what_moved_before_a_long_gap_is_not_looked_for_after_it() -> None:
    manager = TrackingManager(max_lost_seconds=2.0)
    for step in range(6):
        manager.update_tracks(detections(box(30 * step)), step, time_s=step / 10)

    tracked = manager.update_tracks(detections(box(180)), 6, time_s=20.0)

    assert tracked.track_id is not None
    assert tracked.track_id.tolist() == [2]
    assert list(manager.lost) == [1]


def test_an_unsure_detection_continues_a_track_but_opens_none() -> None:
    frames = [[box(100), box(400, p=0.3)], [box(105, p=0.3), box(405, p=0.3)], [box(110), box(410, p=0.3)]]

    assert ids_over_time(TrackingManager(), frames, fps=10) == [[1, -1]] * 3


def test_a_class_that_flickers_does_not_break_a_track() -> None:
    frames = [[box(200 + step, name="truck" if step % 3 == 1 else "car")] for step in range(9)]

    assert ids_over_time(TrackingManager(), frames, fps=10) == [[1]] * 9


def test_a_tracker_that_knows_classes_takes_what_is_called_otherwise_for_another() -> None:
    frames = [[box(200 + step, name="truck" if step == 3 else "car")] for step in range(5)]

    assert ids_over_time(TrackingManager(class_aware=True), frames, fps=10) == [[1], [1], [1], [2], [1]]


def test_a_tracker_that_knows_classes_keeps_them_apart_at_a_distance_too() -> None:
    frames = [[box(0)], [box(150, name="truck")]]

    assert ids_over_time(TrackingManager(), frames, fps=5) == [[1], [1]]
    assert ids_over_time(TrackingManager(class_aware=True), frames, fps=5) == [[1], [2]]


def test_an_unsure_detection_finds_a_car_again_that_was_hidden() -> None:
    frames = [[box(200)], [box(200)], [], [], [box(200, p=0.3)], [], [box(200)]]

    numbers = ids_over_time(TrackingManager(), frames, fps=5)

    assert [number for frame in numbers for number in frame] == [1, 1, 1, 1]


def test_an_established_car_goes_before_a_box_seen_once() -> None:
    """The single box fits slightly better, but it may have been a mistake."""
    frames = [[box(200)], [box(200)], [box(200), box(230)], [box(224)]]

    assert ids_over_time(TrackingManager(), frames, fps=10) == [[1], [1], [1, 2], [1]]


def test_a_new_car_in_the_place_of_a_hidden_one_keeps_what_is_clearly_its_own() -> None:
    frames = [[box(200)], [box(200)], [], [box(290)], [box(280)], [box(280)]]

    numbers = ids_over_time(TrackingManager(), frames, fps=10)

    assert numbers[3:] == [[2], [2], [2]]


def test_cars_keep_their_numbers_while_the_camera_swings() -> None:
    """To and fro by up to 80 pixels within 2 s, while a car is 60 long."""
    swing = [80 * min(1, step / 20) * math.sin(2 * math.pi * step / 20) for step in range(120)]
    frames = [[box(140 + 100 * car + shift, 60 + 60 * car, w=60, h=40) for car in range(4)] for shift in swing]

    assert ids_over_time(TrackingManager(), frames, fps=10) == [[1, 2, 3, 4]] * len(frames)


def test_a_car_that_has_driven_out_does_not_lend_its_number_to_the_next_one() -> None:
    manager = TrackingManager()
    leaving = [[box(400 + 32 * step)] for step in range(7)]
    frames = [*leaving, [], [box(540, 100)], [box(545, 100)]]

    numbers = ids_over_time(manager, frames, fps=10)

    assert numbers[0] == [1]
    assert numbers[-1] == [2]


@pytest.mark.parametrize("jump", [0.0, -5.0, -1e6])
def test_time_that_stands_still_or_runs_backwards_counts_as_none(jump: float) -> None:
    manager = TrackingManager()
    for step in range(5):
        manager.update_tracks(detections(box(100 + 2 * step)), step, time_s=step / 10)

    for step in range(5):
        tracked = manager.update_tracks(detections(box(110 + 2 * step)), 5 + step, time_s=0.4 + jump + step / 10)
        assert tracked.track_id is not None
        assert tracked.track_id.tolist() == [1]

    assert manager.track(1).time_since_update == 0.0


@pytest.mark.parametrize("time_s", [math.nan, math.inf])
def test_a_time_that_is_no_number_is_refused(time_s: float) -> None:
    with pytest.raises(ValueError, match="frame 7"):
        TrackingManager().update_tracks(detections(), 7, time_s=time_s)


def test_frames_without_detections_are_taken_from_the_first_one_on() -> None:
    manager = TrackingManager()

    for step in range(3):
        assert len(manager.update_tracks(Detections.empty(), step, time_s=step / 5)) == 0

    assert manager.outlook() == {}


def test_a_view_tells_where_the_track_goes() -> None:
    manager = TrackingManager()
    for step in range(20):
        manager.update_tracks(detections(box(100 + 10 * step)), step, time_s=step / 10)
    track = manager.track(1)

    ahead = track.predict(0.5)

    assert track.is_confirmed
    assert ahead.x1 == pytest.approx(290 + 50, abs=3)
    assert ahead.y1 == pytest.approx(100, abs=1)


def test_a_view_can_be_given_a_detection_found_elsewhere() -> None:
    manager = TrackingManager()
    manager.update_tracks(detections(box(100)), 0, time_s=0.0)
    manager.update_tracks(detections(), 1, time_s=0.3)
    track = manager.track(1)
    assert not track.is_confirmed
    assert track.time_since_update == pytest.approx(0.3)

    track.update(BoundingBox(110, 100, 230, 160))

    assert track.is_confirmed
    assert track.time_since_update == 0.0
    assert track.predict().x1 == pytest.approx(110, abs=3)


def test_a_view_of_a_track_that_is_gone_says_so() -> None:
    manager = TrackingManager(max_lost_seconds=0.5)
    manager.update_tracks(detections(box(100)), 0, time_s=0.0)
    track = manager.track(1)
    for step in range(1, 4):
        manager.update_tracks(detections(), step, time_s=float(step))

    with pytest.raises(KeyError):
        track.predict()


def test_unsure_detections_are_asked_for_down_to_a_share_of_the_threshold() -> None:
    assert unsure_confidence(0.5) == pytest.approx(0.2)
    assert unsure_confidence(0.1) == pytest.approx(0.1)
