"""Detections by hand, and a lane that is fed with them."""

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import Detections, Visit, VisitEnded, VisitEvent, VisitStarted
from detector_worker.core.frame import Frame
from detector_worker.detection.visits import VisitTracker
from detector_worker.models.pipeline_config import StabilityConfig, TrackingConfig

CLASSES = ("car", "truck", "plate", "frontal", "bus")
WH = (640, 360)
GREY = (90, 90, 90)
RED = (30, 30, 200)
WHITE = (240, 240, 240)
DARK = (25, 20, 20)

Row = tuple[float, float, float, float, str, float]
"""x1, y1, x2, y2, class name, confidence."""
Colour = tuple[int, int, int]
"""BGR."""
Paint = tuple[Row, Colour]
"""What a picture shows besides the detections, over them: undetected, or a detected object's own colour."""


def detections(*rows: Row) -> Detections:
    """Detections of one frame."""
    return Detections(
        np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[5] for row in rows], np.float32),
        np.array([CLASSES.index(row[4]) for row in rows], np.int32),
        CLASSES,
    )


def box(x: float, y: float = 100, *, w: float = 120, h: float = 60, name: str = "car", p: float = 0.9) -> Row:
    """One detection by its upper left corner and its size, cut at the frame's edges."""
    return (max(0.0, x), max(0.0, y), min(float(WH[0]), x + w), min(float(WH[1]), y + h), name, p)


def painted(rows: Sequence[Row], colour: Colour, over: Sequence[Paint] = ()) -> NDArray[np.uint8]:
    """A grey street with its objects in one colour, and what else is to be seen, the nearest last."""
    image = np.full((WH[1], WH[0], 3), 60, np.uint8)
    for (x1, y1, x2, y2, *_), its_colour in (*((row, colour) for row in rows), *over):
        image[int(y1) : int(y2), int(x1) : int(x2)] = its_colour
    return image


class Lane:
    """A `VisitTracker` and the events it has told."""

    def __init__(
        self,
        *,
        stability: StabilityConfig | None = None,
        expected: Sequence[str] = ("car", "truck"),
        required: Sequence[str] = (),
        trigger: Sequence[str] = (),
        region: tuple[int, int, int, int] | None = None,
        first_record: int = 1,
    ) -> None:
        numbers = count(first_record)
        self.tracker = VisitTracker(
            camera_id="gate",
            stability=stability or StabilityConfig(),
            tracking=TrackingConfig(),
            new_record_id=lambda: f"record-{next(numbers)}",
            expected_classes=expected,
            required_classes=required,
            trigger_classes=trigger,
            region=region,
        )
        self.events: list[VisitEvent] = []
        self._frame_id = 0

    def see(self, time_s: float, *rows: Row, colour: Colour = GREY, over: Sequence[Paint] = ()) -> list[VisitEvent]:
        """Analyse one frame."""
        self._frame_id += 1
        frame = Frame(
            painted(rows, colour, over),
            camera_id="gate",
            frame_id=self._frame_id,
            time_s=time_s,
            captured_at=1_700_000_000 + time_s,
        )
        events = self.tracker.update(detections(*rows), frame)
        self.events += events
        return events

    def play(
        self,
        start_s: float,
        seconds: float,
        rows_at: Callable[[float], Sequence[Row]],
        *,
        fps: float = 5,
        colour: Colour = GREY,
        over: Sequence[Paint] = (),
    ) -> None:
        """Analyse ``seconds`` of frames; ``rows_at`` is given the seconds since ``start_s``."""
        for step in range(round(seconds * fps)):
            self.see(start_s + step / fps, *rows_at(step / fps), colour=colour, over=over)

    def finish(self) -> None:
        """End the lane."""
        self.events += self.tracker.finish()

    @property
    def started(self) -> list[Visit]:
        """Visits that have begun, in order."""
        return [event.visit for event in self.events if isinstance(event, VisitStarted)]

    @property
    def ended(self) -> list[str]:
        """Record ids of the visits that have ended, in order."""
        return [event.visit.record_id for event in self.events if isinstance(event, VisitEnded)]
