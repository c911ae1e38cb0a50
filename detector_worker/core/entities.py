"""The shared nouns: what the floors hand to each other.

On the hot path results are arrays (`Detections`); they become objects (`DetectionResult`, `Visit`) only
when one leaves it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.frame import Frame

__all__ = [
    "BoundingBox",
    "ClassificationResult",
    "DetectionResult",
    "Detections",
    "FieldValue",
    "PipelineResult",
    "SessionId",
    "Shot",
    "StreamState",
    "StreamStatus",
    "Visit",
    "VisitEnded",
    "VisitEvent",
    "VisitStarted",
]

FieldValue = str | int | float | bool | None | list["FieldValue"] | dict[str, "FieldValue"]
"""What a mapped field may hold; None is SQL's NULL."""

SessionId = str | int | float
"""A session as the backend names it; two that read alike as text are one."""


@dataclass(frozen=True, slots=True)
class BoundingBox:
    """A box in pixels of the full frame; (x1, y1) is the upper left corner."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def wh(self) -> tuple[float, float]:
        """Width and height, pixels, never negative."""
        return max(0.0, self.x2 - self.x1), max(0.0, self.y2 - self.y1)

    @property
    def area(self) -> float:
        """Square pixels."""
        width, height = self.wh
        return width * height

    def shared_area(self, other: "BoundingBox") -> float:
        """Return the area that both cover, square pixels."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        return max(0.0, width) * max(0.0, height)

    def iou(self, other: "BoundingBox") -> float:
        """Return the shared area over the joint one, 0 to 1."""
        shared = self.shared_area(other)
        return shared / (self.area + other.area - shared) if shared else 0.0

    @classmethod
    def from_xyxy(cls, xyxy: NDArray[np.float32]) -> Self:
        """Make a box of one row of an (N, 4) array."""
        x1, y1, x2, y2 = (float(value) for value in xyxy)
        return cls(x1, y1, x2, y2)


@dataclass(frozen=True, slots=True)
class DetectionResult:
    """One detected object of one frame, outside the hot path."""

    class_name: str
    confidence: float
    bounding_box: BoundingBox
    track_id: int | None = None
    timestamp: float = 0.0
    """Of the capture: seconds since 1970, UTC."""


@dataclass(frozen=True, slots=True)
class Detections:
    """All detections of one frame, as arrays of one length N, which may be 0.

    Attributes:
        xyxy: Boxes, shape (N, 4), float32, pixels of the full frame.
        confidence: Shape (N,), float32, 0 to 1.
        class_id: Shape (N,), int32, indices into ``class_names``.
        class_names: The model's class names, shared by all of its results.
        track_id: Shape (N,), int64, once tracked; -1 where a detection belongs to no track.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int32]
    class_names: tuple[str, ...]
    track_id: NDArray[np.int64] | None = None

    @classmethod
    def empty(cls, class_names: tuple[str, ...] = ()) -> Self:
        """No detections."""
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32), class_names)

    def __len__(self) -> int:
        return len(self.confidence)

    def select(self, index: NDArray[np.bool_] | NDArray[np.intp]) -> "Detections":
        """Return those that a mask of shape (N,) or an array of indices picks."""
        track_id = None if self.track_id is None else self.track_id[index]
        return Detections(self.xyxy[index], self.confidence[index], self.class_id[index], self.class_names, track_id)

    def results(self, timestamp: float) -> Iterator[DetectionResult]:
        """Make objects of the rows; ``timestamp`` is the capture's, seconds since 1970."""
        for row in range(len(self)):
            track_id = None if self.track_id is None or self.track_id[row] < 0 else int(self.track_id[row])
            yield DetectionResult(
                self.class_names[self.class_id[row]],
                float(self.confidence[row]),
                BoundingBox.from_xyxy(self.xyxy[row]),
                track_id,
                timestamp,
            )


@dataclass(frozen=True, slots=True)
class ClassificationResult:
    """What a classifier or a text reader says of one picture."""

    top_class: str | None
    """None where the confidence is below what was asked."""
    confidence: float


@dataclass(frozen=True, slots=True)
class Shot:
    """One good picture of a visit: the frame, and the group's detections in it, the whole object first."""

    frame: Frame
    detections: tuple[DetectionResult, ...]
    quality: float
    is_clear: bool = True
    """Nothing that was detected stands before the object."""


@dataclass(slots=True)
class Visit:
    """One real object's stay before one camera: what becomes exactly one record.

    Times are the lane's clock (``Frame.time_s``) but for ``captured_at``.
    """

    record_id: str
    """UUIDv7, made once per visit: the idempotency key of all that is written about it."""
    camera_id: str
    track_id: int
    class_name: str
    confidence: float
    bounding_box: BoundingBox
    first_s: float
    last_s: float
    captured_at: float
    """Of the frame on which the visit became stable: seconds since 1970, UTC."""
    frame_id: int
    parts: tuple[DetectionResult, ...] = ()
    stage: Literal["arriving", "standing", "leaving"] = "arriving"
    """Leaving: it moves after it has stood."""
    appearance: tuple[float, ...] = ()
    """What it has looked like, as `detection.appearance` describes it, one look after the other; empty: unknown."""
    shots: tuple[Shot, ...] = ()
    """Best first, bounded."""

    @property
    def duration_s(self) -> float:
        """From the object's first sight to its last."""
        return self.last_s - self.first_s


@dataclass(frozen=True, slots=True)
class VisitStarted:
    """A visit became stable: its pipeline runs now, once."""

    visit: Visit
    frame: Frame


@dataclass(frozen=True, slots=True)
class VisitEnded:
    """A visit's object has left, beyond the time in which it could return."""

    visit: Visit


VisitEvent = VisitStarted | VisitEnded


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """What one run of a pipeline came to."""

    status: Literal["completed", "partial", "failed"]
    detections: tuple[DetectionResult, ...]
    classification_results: Mapping[str, Mapping[str, FieldValue]]
    """By branch: ``{resultField: label, "confidence": p}`` or ``{"error": ..., "type": ...}``."""
    fields: Mapping[str, FieldValue]
    """Every column that was written, by its name."""
    unresolved: tuple[str, ...] = ()
    """Placeholders that had no value in this run and became NULL."""
    warnings: tuple[str, ...] = field(default=())


class StreamState(StrEnum):
    """The states of a camera's connection, as clients see them."""

    CONNECTING = "connecting"
    ACTIVE = "active"
    STALLED = "stalled"
    ERROR = "error"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_down(self) -> bool:
        """True where no picture comes, for a known reason."""
        return self in {StreamState.ERROR, StreamState.FAILED, StreamState.STALLED}


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """A change of a camera's connection."""

    camera_id: str
    state: StreamState
    error_class: str | None = None
    attempt: int = 0
    retry_in_s: float | None = None
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    """What is wrong although pictures come: ``blind``, ``clock_suspect``, ``fallback``, ``no_large_stream``."""
