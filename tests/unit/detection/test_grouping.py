import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tracks import CLASSES, Row, detections

from detector_worker.detection.grouping import GroupRules, find_hidden, find_wholes


def wholes(*rows: Row) -> list[int]:
    found: list[int] = find_wholes(detections(*rows), np.ones(len(rows), np.bool_)).tolist()
    return found


def test_a_plate_belongs_to_the_car_around_it() -> None:
    assert wholes((0, 0, 200, 100, "car", 0.9), (80, 70, 120, 85, "plate", 0.9)) == [-1, 0]


def test_a_plate_between_two_cars_belongs_to_the_one_that_contains_more_of_it() -> None:
    left, right = (0, 0, 200, 100, "car", 0.9), (195, 0, 400, 100, "car", 0.9)

    assert wholes(left, right, (190, 70, 240, 85, "plate", 0.9)) == [-1, -1, 1]


def test_of_two_that_contain_it_equally_a_part_belongs_to_the_smaller() -> None:
    bus, car = (0, 0, 600, 300, "bus", 0.9), (100, 100, 300, 280, "car", 0.9)
    plate = (180, 240, 220, 255, "plate", 0.9)

    parts = np.array([False, False, True])

    assert find_wholes(detections(bus, car, plate), parts).tolist() == [-1, -1, 1]


def test_a_part_of_a_part_belongs_to_the_outermost() -> None:
    car, frontal = (0, 0, 200, 100, "car", 0.9), (100, 40, 195, 98, "frontal", 0.9)

    assert wholes(car, frontal, (130, 80, 170, 92, "plate", 0.9)) == [-1, 0, 0]


def test_objects_of_about_one_size_are_not_parts_of_each_other() -> None:
    assert wholes((0, 0, 200, 100, "car", 0.9), (5, 5, 195, 95, "truck", 0.9)) == [-1, -1]


def test_a_class_is_never_a_part_of_its_own() -> None:
    assert wholes((0, 0, 200, 100, "car", 0.9), (20, 20, 80, 60, "car", 0.9)) == [-1, -1]


def test_what_lies_only_partly_inside_stands_for_itself() -> None:
    assert wholes((0, 0, 200, 100, "car", 0.9), (180, 70, 220, 85, "plate", 0.9)) == [-1, -1]


boxes = st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99), st.integers(1, 99)).map(
    lambda box: (float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3]))
)


@given(st.lists(st.tuples(boxes, st.sampled_from(CLASSES)), max_size=12))
def test_a_whole_is_never_itself_a_part(objects: list[tuple[tuple[float, float, float, float], str]]) -> None:
    found = wholes(*((*xyxy, name, 0.9) for xyxy, name in objects))

    assert all(found[whole] == -1 for whole in found if whole >= 0)


def hidden(*rows: Row) -> list[bool]:
    found: list[bool] = find_hidden(detections(*rows), 0.5).tolist()
    return found


def test_of_two_that_overlap_the_lower_one_is_nearer_and_hides_the_other() -> None:
    far, near = (0, 0, 200, 100, "car", 0.9), (150, 20, 350, 120, "truck", 0.9)

    assert hidden(far, near) == [True, False]
    assert hidden(near, far) == [False, True]


def test_nobody_is_hidden_by_one_that_stands_as_low() -> None:
    assert hidden((0, 0, 200, 100, "car", 0.9), (150, 20, 350, 100, "truck", 0.9)) == [False, False]


def test_an_object_does_not_hide_itself() -> None:
    assert hidden((0, 0, 200, 100, "car", 0.9)) == [False]
    assert hidden() == []


@pytest.mark.parametrize(("overlap_px", "told"), [(18, False), (22, True)])
def test_a_tenth_of_a_box_must_be_covered(overlap_px: float, told: bool) -> None:
    before = (200 - overlap_px, 0, 500, 110, "car", 0.9)

    assert hidden((0, 0, 200, 100, "car", 0.9), before) == [told, False]


def test_parts_do_not_hide_what_they_belong_to() -> None:
    """The front is even said to end a little lower than its car."""
    front, plate = (100, 40, 195, 103, "frontal", 0.9), (130, 80, 170, 92, "plate", 0.9)

    assert hidden((0, 0, 200, 100, "car", 0.9), front, plate)[0] is False


def test_who_covers_an_object_that_is_unsure_itself_hides_it_but_an_unsure_one_hides_nobody() -> None:
    near, far = (150, 20, 350, 120, "truck", 0.4), (0, 0, 200, 100, "car", 0.9)
    assert hidden(far, near) == [False, False]

    near, far = (150, 20, 350, 120, "truck", 0.9), (0, 0, 200, 100, "car", 0.4)
    assert hidden(far, near) == [True, False]


def test_one_behind_two_others_is_hidden_by_either() -> None:
    far = (100, 0, 300, 100, "car", 0.9)
    left, right = (0, 20, 140, 120, "car", 0.9), (260, 20, 400, 120, "car", 0.9)

    assert hidden(left, far, right) == [False, True, False]


def test_a_group_needs_one_expected_class_and_all_required_ones() -> None:
    rules = GroupRules(expected=["Car", "truck"], required=["FRONTAL"], trigger=[])

    assert rules.is_wanted({"car", "frontal"})
    assert not rules.is_wanted({"car"})
    assert not rules.is_wanted({"frontal"})


def test_without_rules_any_group_will_do() -> None:
    rules = GroupRules(expected=[], required=[], trigger=[])

    assert rules.is_wanted({"elephant"})
    assert rules.is_triggered([])


def test_trigger_classes_count_without_regard_to_case() -> None:
    rules = GroupRules(expected=[], required=[], trigger=["Frontal"])

    assert rules.is_triggered(["car", "FRONTAL"])
    assert not rules.is_triggered(["car"])
