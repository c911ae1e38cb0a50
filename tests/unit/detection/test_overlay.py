from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox, DetectionResult, Detections
from detector_worker.core.frame import Frame
from detector_worker.detection.overlay import TrackSayings, _colour, draw_overlay

GREY = (100, 100, 100)
DIMMED = (60, 60, 60)
BOX = (200, 150, 300, 250)


def grey_frame() -> Frame:
    image = np.full((360, 640, 3), 100, np.uint8)
    return Frame(image, camera_id="gate", frame_id=1, time_s=0.0, captured_at=0.0)


def tracked(track_id: int) -> Detections:
    return Detections(
        np.array([BOX], np.float32),
        np.array([0.9], np.float32),
        np.array([0], np.int32),
        ("car",),
        np.array([track_id], np.int64),
    )


def pixel(image: NDArray[np.uint8], x: int, y: int) -> tuple[int, ...]:
    return tuple(image[y, x].tolist())


def label_width(image: NDArray[np.uint8], track_id: int) -> int:
    """How far the label above the box reaches to the right, pixels."""
    row = (image[BOX[1] - 10] == _colour(track_id)).all(axis=1)
    return int(np.flatnonzero(row).max()) - BOX[0]


def test_a_track_has_a_box_of_its_colour_and_the_frame_itself_is_left_alone() -> None:
    frame = grey_frame()

    image = draw_overlay(frame, tracked(7), {})

    for x, y in ((BOX[0], 200), (BOX[2], 200), (250, BOX[3])):
        assert pixel(image, x, y) == _colour(7)
    assert pixel(image, 250, 200) == GREY
    assert pixel(image, 20, 20) == GREY
    assert (frame.bgr() == 100).all()


def test_neighbouring_tracks_are_told_apart_by_their_colours() -> None:
    assert len({_colour(track_id) for track_id in range(1, 30)}) == 29


def test_what_belongs_to_no_track_is_not_drawn() -> None:
    assert (draw_overlay(grey_frame(), tracked(-1), {}) == 100).all()


def test_what_the_branches_said_stands_in_the_label() -> None:
    without = draw_overlay(grey_frame(), tracked(7), {8: "somebody else"})
    said = draw_overlay(grey_frame(), tracked(7), {7: "red van"})

    assert label_width(said, 7) > label_width(without, 7) + 20


def test_what_is_outside_the_region_or_ignored_is_dimmed_once() -> None:
    image = draw_overlay(
        grey_frame(),
        Detections.empty(),
        {},
        region=(100, 0, 640, 360),
        ignored=[(-5.0, 300.0, 200.4, 400.0), (150.0, 300.0, 250.0, 400.0)],
    )

    table = {(50, 50): DIMMED, (50, 350): DIMMED, (180, 320): DIMMED, (240, 359): DIMMED, (100, 299): GREY}
    assert {place: pixel(image, *place) for place in table} == table


def test_boxes_stay_bright_where_it_is_dimmed() -> None:
    image = draw_overlay(grey_frame(), tracked(7), {}, ignored=[(0, 0, 640, 360)])

    assert pixel(image, BOX[0], 200) == _colour(7)
    assert pixel(image, 250, 200) == DIMMED


def seen(track_id: int | None) -> Sequence[DetectionResult]:
    box = BoundingBox(0, 0, 1, 1)
    return DetectionResult("car", 0.9, box, track_id), DetectionResult("plate", 0.9, box, track_id)


@pytest.mark.parametrize(
    ("branches", "text"),
    [
        ({"brand": {"brand": "Norda", "confidence": 0.9}, "plate": {"text": "AB 1"}}, "Norda AB 1"),
        ({"brand": {"brand": None, "confidence": 0.2}, "plate": {"text": "AB 1"}}, "AB 1"),
        ({"brand": {"error": "too slow", "type": "timeout"}}, ""),
    ],
)
def test_sayings_are_labels_without_their_figures(
    branches: dict[str, dict[str, str | float | None]], text: str
) -> None:
    sayings = TrackSayings()
    sayings.note(seen(7), branches)

    assert sayings.by_track == {7: text}


def test_sayings_of_nobody_are_not_kept() -> None:
    sayings = TrackSayings()
    sayings.note(seen(None), {})
    sayings.note((), {})

    assert sayings.by_track == {}


def test_only_the_newest_thousand_tracks_are_remembered() -> None:
    sayings = TrackSayings()
    for track_id in range(1000):
        sayings.note(seen(track_id), {})
    sayings.note(seen(0), {"colour": {"colour": "red"}})
    sayings.note(seen(1000), {})

    assert len(sayings.by_track) == 1000
    assert 1 not in sayings.by_track
    assert sayings.by_track[0] == "red"
