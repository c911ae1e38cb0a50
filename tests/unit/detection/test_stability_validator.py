import pytest

from detector_worker.core.entities import BoundingBox
from detector_worker.detection.stability_validator import StabilityValidator


def at(x: float) -> BoundingBox:
    return BoundingBox(x, 0, x + 100, 50)


def validator(*, min_frames: int = 4, min_seconds: float = 0.5, min_iou: float = 0.5) -> StabilityValidator:
    return StabilityValidator(min_frames=min_frames, min_seconds=min_seconds, min_iou=min_iou)


def test_a_track_is_stable_with_the_frame_that_completes_number_and_time() -> None:
    rule = validator()
    seen = []
    for step in range(5):
        rule.add_detection(1, at(0), time_s=step * 0.2)
        seen.append(rule.is_detection_stable(1))

    assert seen == [False, False, False, True, True]


def test_many_frames_in_too_short_a_time_are_not_enough() -> None:
    rule = validator(min_seconds=1.0)
    for step in range(20):
        rule.add_detection(1, at(0), time_s=step * 0.05)

    assert not rule.is_detection_stable(1)


def test_a_long_time_with_too_few_frames_is_not_enough() -> None:
    rule = validator(min_frames=3)
    rule.add_detection(1, at(0), time_s=0.0)
    rule.add_detection(1, at(0), time_s=60.0)

    assert not rule.is_detection_stable(1)


def test_stability_is_the_mean_iou_with_the_previous_box() -> None:
    rule = validator()
    for step, x in enumerate((0, 0, 50)):  # IoU 1, then 50 / 150
        rule.add_detection(1, at(x), time_s=float(step))

    assert rule._calculate_stability(1) == pytest.approx((1 + 1 / 3) / 2)


def test_the_better_of_predicted_and_previous_box_counts() -> None:
    rule = validator()
    rule.add_detection(1, at(0), time_s=0.0)
    rule.add_detection(1, at(90), time_s=0.2, predicted=at(90))  # a fast object
    rule.add_detection(1, at(90), time_s=0.4, predicted=at(180))  # which then stops

    assert rule._calculate_stability(1) == pytest.approx(1.0)


@pytest.mark.parametrize(("min_iou", "stable"), [(0.6, True), (0.7, False)])
def test_the_mean_must_reach_what_is_asked(min_iou: float, stable: bool) -> None:
    rule = validator(min_iou=min_iou)
    for step, x in enumerate((0, 0, 0, 100)):  # IoU 1, 1, 0: mean 2/3
        rule.add_detection(1, at(x), time_s=float(step))

    assert rule.is_detection_stable(1) is stable


def test_a_single_frame_is_enough_where_one_is_asked() -> None:
    rule = validator(min_frames=1, min_seconds=0.0, min_iou=1.0)
    rule.add_detection(1, at(0), time_s=0.0)

    assert rule.is_detection_stable(1)


def test_tracks_are_judged_apart_and_forgotten() -> None:
    rule = validator(min_frames=2, min_seconds=0.0)
    for step in range(2):
        rule.add_detection(1, at(0), time_s=float(step))
    rule.add_detection(2, at(300), time_s=1.0)

    assert (rule.is_detection_stable(1), rule.is_detection_stable(2), rule.is_detection_stable(3)) == (
        True,
        False,
        False,
    )
    rule.forget(1)
    assert not rule.is_detection_stable(1)


def test_tracks_that_nobody_ended_do_not_stay_for_ever() -> None:
    rule = validator(min_frames=1, min_seconds=0.0)
    rule.add_detection(1, at(0), time_s=0.0)

    rule.add_detection(2, at(0), time_s=7200.0)

    assert not rule.is_detection_stable(1)
    assert rule.is_detection_stable(2)
