"""What the four demo models are for: their classes, inputs and aims. Everything else in this package reads it here."""

from dataclasses import dataclass
from typing import Final, Literal

from detector_worker.simulator.scenes.bodies import BODIES
from detector_worker.simulator.scenes.brands import BRANDS
from detector_worker.simulator.scenes.plates import ALPHABET, PLATE_LENGTH
from detector_worker.simulator.scenes.truth import READABLE_PLATE_PX

__all__ = [
    "AIMS",
    "CROP_TASKS",
    "DETECTOR_CLASSES",
    "DETECTOR_HW",
    "MIN_CONFIDENCE",
    "PICTURE_WH",
    "TASK_NAMES",
    "CropTask",
    "CropTaskName",
    "TaskName",
    "is_judged",
    "is_labelled",
    "model_file",
]

TaskName = Literal["detector", "brand", "body", "plate"]
CropTaskName = Literal["brand", "body", "plate"]
TASK_NAMES: Final[tuple[TaskName, ...]] = ("detector", "brand", "body", "plate")

DETECTOR_CLASSES: Final = ("vehicle", "frontal", "plate", "person")
PICTURE_WH: Final = (640, 360)
"""What the detector sees of a picture of 1280 x 720."""
DETECTOR_HW: Final = (384, 640)
MIN_CONFIDENCE: Final = 0.5
"""Below it the worker drops a detection, and a branch gives no label."""


@dataclass(frozen=True, slots=True)
class CropTask:
    """A model that names or reads one cut-out object."""

    name: CropTaskName
    kind: Literal["frontal", "vehicle", "plate"]
    """What is cut out."""
    input_hw: tuple[int, int]
    padding: float
    """As the archive's ``cropPadding``."""
    symbols: tuple[str, ...]
    """What each slot can be: the classes of a classifier, the alphabet of a reader."""
    slots: int
    """How many answers one crop has."""
    judged_px: float
    judged_visible: float
    """From this height and visible share on an answer has to be right."""
    learned_px: float
    learned_visible: float
    """From these on a crop is learned from: worse ones teach when to be unsure."""
    copies: int
    """How often each object is cut out, each time a little off."""

    def label(self, brand: str, body: str, plate: str) -> tuple[int, ...]:
        """Return the right answer, one index a slot."""
        texts: dict[CropTaskName, tuple[str, ...]] = {"brand": (brand,), "body": (body,), "plate": tuple(plate)}
        return tuple(self.symbols.index(symbol) for symbol in texts[self.name])

    def text(self, label: tuple[int, ...]) -> str:
        """Return the answer in words."""
        return "".join(self.symbols[index] for index in label)


CROP_TASKS: Final[dict[CropTaskName, CropTask]] = {
    "brand": CropTask("brand", "frontal", (96, 96), 0.03, BRANDS, 1, 16, 0.7, 12, 0.45, copies=2),
    "body": CropTask("body", "vehicle", (96, 96), 0.03, BODIES, 1, 16, 0.7, 16, 0.4, copies=2),
    "plate": CropTask(
        "plate", "plate", (32, 128), 0.08, tuple(ALPHABET), PLATE_LENGTH, READABLE_PLATE_PX, 0.99, 8, 0.5, copies=3
    ),
}

AIMS: Final[dict[TaskName, float]] = {"detector": 0.95, "brand": 0.98, "body": 0.98, "plate": 0.97}
"""Mean AP50 of the detector, and the share of right answers of the others."""

_PLATE_LABELLED_PX: Final = 9.0


def is_labelled(kind: str, height_px: float, visible: float) -> bool:
    """Whether the detector should find an object; of a less visible one it is neither asked nor forbidden."""
    if kind == "plate":
        return height_px >= _PLATE_LABELLED_PX and visible >= 0.6
    return visible >= 0.3


def is_judged(kind: str, height_px: float, visible: float) -> bool:
    """Whether it counts in the detector's figures that an object was found."""
    return visible >= 0.5 and is_labelled(kind, height_px, visible)


def model_file(task: TaskName) -> str:
    """Return the name of a model's file in the archive."""
    return f"demo_{task}.onnx"
