"""What one run of a pipeline knows: the visit, its pictures, and what the run has come to so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from detector_worker.core.entities import BoundingBox, DetectionResult, FieldValue, SessionId, Shot, Visit
from detector_worker.core.frame import Frame
from detector_worker.core.outbox import SavedVisit, SessionEntry, SpoolEntry

__all__ = ["PipelineContext", "View", "branch_succeeded", "find_class"]

View = tuple[Frame, BoundingBox | None]
"""A frame and the box in it that is meant; None: all of the frame."""


@dataclass(slots=True, kw_only=True)
class PipelineContext:
    """One run, for a visit or for a single frame without detections. On the event loop only; not thread-safe."""

    camera_id: str
    display_id: str
    record_id: str
    session_id: SessionId
    model_id: str | int | None
    frame: Frame
    frame_id: int
    timestamp: float
    """Of the capture: seconds since 1970, UTC."""
    detections: tuple[DetectionResult, ...] = ()
    """The visit's group in ``frame``, the whole object first; empty: the executor detects by itself."""
    track_id: int | None = None
    shots: tuple[Shot, ...] = ()
    """The visit's good pictures, best first, and at last this frame; each with all that was found in it."""
    saved_visit: SavedVisit | None = None
    """Goes to disk in one transaction with the run's first entries; None once it has, or where none is kept."""
    session_entry: SessionEntry | None = None
    """What the session knows of this visit so far."""
    pending: list[SpoolEntry] = field(default_factory=list)
    """What actions want written and the outbox has not been offered yet."""
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
        group = (whole, *visit.parts)
        is_shot = any(shot.frame is frame for shot in visit.shots)
        return cls(
            camera_id=visit.camera_id,
            display_id=display_id,
            record_id=visit.record_id,
            session_id=visit.record_id if session_id is None else session_id,
            model_id=model_id,
            frame=frame,
            frame_id=visit.frame_id,
            timestamp=visit.captured_at,
            detections=group,
            track_id=visit.track_id,
            shots=visit.shots if is_shot else (*visit.shots, Shot(frame, group, 0.0)),
            saved_visit=saved_visit,
        )

    def find_region(self, region: str, frame: Frame) -> View | None:
        """Return what an action's region means: ``frame``, ``best``, or a class name.

        A class is looked for in this frame first, then in the best pictures; None where none of them shows it.
        """
        if region == "frame":
            return frame, None
        if region == "best":
            return self.shots[0].frame, self.shots[0].detections[0].bounding_box
        for shot in (Shot(frame, self.detections, 0.0), *self.shots):
            if (found := find_class(shot, region)) is not None:
                return shot.frame, found.bounding_box
        return None

    def add_found(self, frame: Frame, found: Sequence[DetectionResult]) -> None:
        """Add what a branch detected in a frame, for the branches and actions that follow."""
        self.shots = tuple(
            replace(shot, detections=(*shot.detections, *found)) if shot.frame is frame else shot for shot in self.shots
        )


def find_class(shot: Shot, class_name: str) -> DetectionResult | None:
    """Return the most confident detection of a class in a group, regardless of case."""
    wanted = class_name.casefold()
    found = (detection for detection in shot.detections if detection.class_name.casefold() == wanted)
    return max(found, key=lambda detection: detection.confidence, default=None)


def branch_succeeded(result: Mapping[str, FieldValue]) -> bool:
    """True if a branch gave a result; one that failed has ``error`` and ``type`` and no confidence."""
    return "confidence" in result
