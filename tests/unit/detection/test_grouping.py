import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.tracks import CLASSES, Row, detections

from detector_worker.detection.grouping import GroupRules, find_wholes


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
