"""What one run of a pipeline knows: the visit, its pictures, and what the run has come to so far."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

from detector_worker.core.clock import rfc3339
from detector_worker.core.entities import BoundingBox, DetectionResult, FieldValue, Shot, Visit
from detector_worker.core.frame import Frame
from detector_worker.core.outbox import SavedVisit

__all__ = ["PipelineContext", "RunBlocking", "branch_succeeded", "find_class"]

Result = TypeVar("Result")


class RunBlocking(Protocol):
    """Hands work that blocks to a thread that somebody owns, and awaits its result."""

    def __call__(self, work: Callable[[], Result], /) -> Awaitable[Result]:
        """Return what ``work`` returns, or raise what it raises."""
        ...


def branch_succeeded(result: Mapping[str, FieldValue]) -> bool:
    """Whether a branch gave a result; one that failed has ``error`` and ``type`` and no confidence."""
    return "confidence" in result


@dataclass(slots=True, kw_only=True)
class PipelineContext:
    """One run for one visit, or for one single frame. Used on the event loop only; not thread-safe."""

    camera_id: str
    display_id: str
    record_id: str
    session_id: str | int | float
    model_id: str | int | None
    frame: Frame
    frame_id: int
    timestamp: float
    """Of the capture: seconds since 1970, UTC."""
    detections: tuple[DetectionResult, ...] = ()
    """The visit's group in ``frame``, the whole object first; empty: the executor detects by itself."""
    track_id: int | None = None
    shots: tuple[Shot, ...] = ()
    """The visit's good pictures, best first."""
    saved_visit: SavedVisit | None = None
    """Goes to disk in one transaction with the run's first entries; None once it has, or where none is kept."""
    intermediate_results: dict[str, dict[str, FieldValue]] = field(default_factory=dict)
    """What actions came to, by their names: what ``{action.field}`` finds."""
    branch_results: dict[str, dict[str, FieldValue]] = field(default_factory=dict)
    fields: dict[str, FieldValue] = field(default_factory=dict)
    """Every column that was accepted for writing."""
    unresolved: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    has_failed_action: bool = False
    is_refused: bool = False
    """The outbox did not take what the run wanted written."""

    @classmethod
    def from_visit(
        cls,
        visit: Visit,
        frame: Frame,
        *,
        display_id: str,
        session_id: str | float | None,
        model_id: str | int | None,
        saved_visit: SavedVisit | None = None,
    ) -> Self:
        """Take what a run needs of a visit that has become stable on ``frame``; the visit may move on."""
        whole = DetectionResult(
            visit.class_name, visit.confidence, visit.bounding_box, visit.track_id, visit.captured_at
        )
        return cls(
            camera_id=visit.camera_id,
            display_id=display_id,
            record_id=visit.record_id,
            session_id=visit.record_id if session_id is None else session_id,
            model_id=model_id,
            frame=frame,
            frame_id=visit.frame_id,
            timestamp=visit.captured_at,
            detections=(whole, *visit.parts),
            track_id=visit.track_id,
            shots=visit.shots,
            saved_visit=saved_visit,
        )

    @classmethod
    def from_frame(
        cls,
        frame: Frame,
        *,
        record_id: str,
        display_id: str,
        session_id: str | float | None,
        model_id: str | int | None,
    ) -> Self:
        """Begin with a single frame in which nothing has been detected yet."""
        return cls(
            camera_id=frame.camera_id,
            display_id=display_id,
            record_id=record_id,
            session_id=record_id if session_id is None else session_id,
            model_id=model_id,
            frame=frame,
            frame_id=frame.frame_id,
            timestamp=frame.captured_at,
        )

    @property
    def current_shot(self) -> Shot:
        """The frame of this run with its group, for where no better picture shows what is wanted."""
        return Shot(self.frame, self.detections, 0.0)

    def names(self, *, extension: str) -> dict[str, FieldValue]:
        """Return every plain name of a template with its value; ``extension`` is that of ``{filename}``."""
        whole = self.detections[0] if self.detections else None
        box = whole.bounding_box if whole else None
        return {
            "camera_id": self.camera_id,
            "display_id": self.display_id,
            "record_id": self.record_id,
            "session_id": self.session_id,
            "timestamp": rfc3339(self.timestamp),
            "frame_id": self.frame_id,
            "track_id": self.track_id,
            "filename": f"{self.record_id}.{extension}",
            "model_id": self.model_id,
            "class_name": whole.class_name if whole else None,
            "confidence": whole.confidence if whole else None,
            **{f"bbox.{side}": getattr(box, side) if box else None for side in ("x1", "y1", "x2", "y2")},
        }

    def find_region(self, region: str, frame: Frame) -> tuple[Frame, BoundingBox | None] | None:
        """Find the picture that an action's ``region`` names.

        Args:
            region: ``frame``, ``best``, or a class name.
            frame: The frame in which ``detections`` were found.

        Returns:
            The frame and the box in it, None as the box for the whole frame; or None where nothing of that
            class was seen. A class is looked for in this frame first, then in the best pictures.
        """
        current = Shot(frame, self.detections, 0.0)
        if region == "frame":
            return frame, None
        if region == "best":
            best = self.shots[0] if self.shots else current
            return (best.frame, best.detections[0].bounding_box) if best.detections else None
        for shot in (current, *self.shots):
            if (found := find_class(shot, region)) is not None:
                return shot.frame, found.bounding_box
        return None

    def warn(self, text: str) -> None:
        """Tell in the result what went otherwise than wished."""
        if text not in self.warnings:
            self.warnings.append(text)

    def note_unresolved(self, name: str) -> None:
        """Tell in the result that a placeholder had no value."""
        if name not in self.unresolved:
            self.unresolved.append(name)


def find_class(shot: Shot, class_name: str) -> DetectionResult | None:
    """Return the most confident detection of a class in a group, regardless of case."""
    wanted = class_name.casefold()
    found = [detection for detection in shot.detections if detection.class_name.casefold() == wanted]
    return max(found, key=lambda detection: detection.confidence, default=None)
