"""What counts as finding the same."""

import numpy as np
import pytest

from detector_worker.core.entities import Detections
from detector_worker.detection.precision_check import Agreement, Seen, compare

NAMES = ("car", "truck")
BOX = (100.0, 100.0, 200.0, 180.0)


def seen(
    *boxes: tuple[tuple[float, ...], float, int], also: tuple[tuple[tuple[float, ...], float, int], ...] = ()
) -> Seen:
    """Kept boxes, and candidates that suppression dropped."""
    return Seen(_detections(*boxes, *also), _detections(*boxes))


def _detections(*boxes: tuple[tuple[float, ...], float, int]) -> Detections:
    return Detections(
        np.array([box for box, _, _ in boxes], np.float32).reshape(-1, 4),
        np.array([confidence for _, confidence, _ in boxes], np.float32),
        np.array([class_id for _, _, class_id in boxes], np.int32),
        NAMES,
    )


def moved(box: tuple[float, ...], px: float) -> tuple[float, ...]:
    return box[0] + px, box[1], box[2] + px, box[3]


def verdict(one: Seen, other: Seen) -> Agreement:
    return compare([(one, other)] * 30)


def test_the_same_is_the_same() -> None:
    agreement = verdict(seen((BOX, 0.8, 0)), seen((BOX, 0.79, 0)))

    assert agreement.is_enough
    assert agreement.faults == ()
    assert agreement.max_confidence_difference == pytest.approx(0.01, abs=1e-6)


def test_few_boxes_say_nothing() -> None:
    assert not compare([(seen((BOX, 0.8, 0)), seen((BOX, 0.8, 0)))] * 23).is_enough


@pytest.mark.parametrize(
    ("lower", "fault"),
    [
        (seen(), "30 of 30 objects lost"),
        (seen((BOX, 0.8, 1)), "objects lost"),
        (seen((BOX, 0.8, 0), (moved(BOX, 300), 0.6, 0)), "30 new ones"),
        (seen((moved(BOX, 3), 0.8, 0)), "without a counterpart within an IoU of 0.98"),
        (seen((BOX, 0.83, 0)), "confidence up to 0.030 off"),
    ],
)
def test_whatever_differs_is_told(lower: Seen, fault: str) -> None:
    agreement = verdict(seen((BOX, 0.8, 0)), lower)

    assert any(fault in told for told in agreement.faults), agreement.faults


def test_another_of_two_equal_neighbours_is_no_difference() -> None:
    here, there = (BOX, 0.8, 0), (moved(BOX, 4), 0.8, 0)

    assert verdict(seen(here, also=(there,)), seen(there, also=(here,))).faults == ()
    assert verdict(seen(here), seen(there)).faults, "without the neighbours it is one"


def test_empty_pictures_are_pictures() -> None:
    agreement = compare([(seen(), seen())])

    assert (agreement.pictures, agreement.boxes, agreement.faults) == (1, 0, ())
