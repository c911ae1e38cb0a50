"""What holds whatever a detector and a camera's clock come up with."""

import random
from collections.abc import Callable
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tracks import CLASSES, Row, detections

from detector_worker.core.entities import BoundingBox
from detector_worker.detection.tracking_manager import TrackingManager

PICTURE = BoundingBox(0, 0, 640, 360)

NewManager = Callable[[], TrackingManager]
Scene = list[tuple[float, list[Row]]]
"""Of each frame the time since the one before, and its detections."""

coordinates = st.floats(0, 600, width=32)
lengths = st.floats(1, 300, width=32)
rows = st.tuples(
    coordinates, coordinates, lengths, lengths, st.sampled_from(CLASSES), st.floats(0.0625, 1, width=32)
).map(lambda row: (row[0], row[1], row[0] + row[2], row[1] + row[3], row[4], row[5]))
# In eighths of a second, so that sums of times are exact: back by a week, standing, usual, and on by an hour.
steps = st.sampled_from([-604_800.0, -1.0, 0.0, 0.125, 0.125, 0.25, 0.5, 1.0, 3.0, 3600.0])
scenes = st.lists(st.tuples(steps, st.lists(rows, max_size=6)), max_size=12)
managers = st.sampled_from([TrackingManager, partial(TrackingManager, class_aware=True)])

few = settings(max_examples=40, deadline=None)


def ids_of(manager: TrackingManager, frame: list[Row], time_s: float) -> list[int]:
    tracked = manager.update_tracks(detections(*frame), 0, time_s=time_s, bounds=PICTURE)
    assert tracked.track_id is not None
    numbers: list[int] = tracked.track_id.tolist()
    return numbers


def times_of(scene: Scene) -> list[float]:
    return list(accumulate(elapsed_s for elapsed_s, _ in scene))


@given(scenes, managers)
@few
def test_no_track_gets_two_detections_of_a_frame(scene: Scene, new_manager: NewManager) -> None:
    manager = new_manager()
    for time_s, (_, frame) in zip(times_of(scene), scene, strict=True):
        numbers = ids_of(manager, frame, time_s)

        given_ids = [number for number in numbers if number >= 0]
        assert len(given_ids) == len(set(given_ids))
        assert set(given_ids) <= set(manager.outlook())
        for number, row in zip(numbers, frame, strict=True):
            assert number >= 0 or row[5] < 0.5, "what is confident is always somebody"


@given(scenes, managers)
@few
def test_a_number_that_is_gone_never_comes_again(scene: Scene, new_manager: NewManager) -> None:
    manager = new_manager()
    highest, alive = 0, set[int]()
    for time_s, (_, frame) in zip(times_of(scene), scene, strict=True):
        given_ids = {number for number in ids_of(manager, frame, time_s) if number >= 0}

        begun = given_ids - alive
        assert all(number > highest for number in begun)
        highest = max(highest, *given_ids, 0)
        assert (alive | begun) - set(manager.lost) == set(manager.outlook()), "all are alive, or told to be lost"
        alive = set(manager.outlook())


@given(scenes, managers, st.integers(0, 2**32))
@few
def test_the_order_of_the_detections_changes_nothing(scene: Scene, new_manager: NewManager, seed: int) -> None:
    plain, shuffled, shuffler = new_manager(), new_manager(), random.Random(seed)
    for time_s, (_, frame) in zip(times_of(scene), scene, strict=True):
        distinct = list(dict.fromkeys(frame))
        order = shuffler.sample(range(len(distinct)), len(distinct))

        numbers = ids_of(plain, distinct, time_s)

        assert ids_of(shuffled, [distinct[index] for index in order], time_s) == [numbers[index] for index in order]
    assert plain.outlook() == shuffled.outlook()


@given(scenes, managers)
@few
def test_time_that_runs_backwards_counts_as_none(scene: Scene, new_manager: NewManager) -> None:
    jumping, standing = new_manager(), new_manager()
    times = times_of(scene)
    passed = accumulate((max(0.0, after - before) for before, after in pairwise(times)), initial=0.0)
    for time_s, passed_s, (_, frame) in zip(times, passed, scene, strict=False):
        assert ids_of(jumping, frame, time_s) == ids_of(standing, frame, passed_s)
        assert jumping.now_s - times[0] == passed_s


@given(scenes, managers)
@few
def test_times_that_jump_leave_every_track_in_order(scene: Scene, new_manager: NewManager) -> None:
    manager = new_manager()
    for time_s, (_, frame) in zip(times_of(scene), scene, strict=True):
        ids_of(manager, frame, time_s)

        for number, (expected, growth_per_s) in manager.outlook().items():
            track = manager.track(number)
            boxes = np.array([[box.x1, box.y1, box.x2, box.y2] for box in (expected, track.predict(1.0))])
            assert np.isfinite(boxes).all()
            assert np.isfinite(growth_per_s)
            assert (boxes[:, 2:] >= boxes[:, :2]).all()
            assert track.time_since_update >= 0
