"""The trackers that are compared: ours, and three of Roboflow's `trackers` package.

All of them, ours too, take detections of at least 0.5 for sure; in everything else each has its own defaults.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final, Protocol

import numpy as np
import supervision
from trackers import ByteTrackTracker, OCSORTTracker, SORTTracker

from benchmarks.tracking.mot_files import FoundBoxes, NumberedBoxes
from detector_worker.core.entities import BoundingBox, Detections
from detector_worker.detection.tracking_manager import TrackingManager

__all__ = ["CONTENDERS", "OURS", "Contender", "Follower"]

OURS: Final = "ours"
_SURE: Final = 0.5


class Follower(Protocol):
    """A tracker of one sequence. What is timed is ``update`` alone."""

    def prepared(self, found: FoundBoxes) -> Any:
        """Return a frame's detections in the form that the tracker takes."""
        ...

    def update(self, detections: Any) -> Any:
        """Follow them for one more frame."""
        ...

    def said(self, updated: Any) -> NumberedBoxes:
        """Return what the tracker made of them: the boxes to which it gave a number."""
        ...


@dataclass(frozen=True, slots=True)
class Contender:
    """A tracker, and how it is set."""

    version: str
    settings: str
    begin: Callable[[float, BoundingBox], Follower]
    """Frame rate and picture to a tracker of one sequence."""


class _Ours:
    """A detection counts from the second one of its track on, as in ByteTrack."""

    def __init__(self, frame_rate: float, picture: BoundingBox) -> None:
        self._manager, self._frame_rate, self._picture = TrackingManager(high_confidence=_SURE), frame_rate, picture
        self._frame = 0

    def prepared(self, found: FoundBoxes) -> Detections:
        return Detections(found.xyxy, found.confidence, np.zeros(len(found.xyxy), np.int32), ("object",))

    def update(self, detections: Detections) -> Detections:
        self._frame += 1
        return self._manager.update_tracks(
            detections, self._frame, time_s=self._frame / self._frame_rate, bounds=self._picture
        )

    def said(self, updated: Detections) -> NumberedBoxes:
        assert updated.track_id is not None  # update_tracks has set it
        counts = np.array(
            [one >= 0 and self._manager.track(one).is_confirmed for one in updated.track_id.tolist()], np.bool_
        )
        return NumberedBoxes(updated.track_id[counts], updated.xyxy[counts])


class _Peer:
    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker

    def prepared(self, found: FoundBoxes) -> Any:
        return supervision.Detections(
            xyxy=found.xyxy, confidence=found.confidence, class_id=np.zeros(len(found.xyxy), int)
        )

    def update(self, detections: Any) -> Any:
        return self._tracker.update(detections)

    def said(self, updated: Any) -> NumberedBoxes:
        numbered = updated[updated.tracker_id >= 0]
        return NumberedBoxes(numbered.tracker_id.astype(np.int64), numbered.xyxy.astype(np.float32))


def _peer(tracker: Callable[..., Any], *thresholds: str) -> Contender:
    settings = dict.fromkeys(thresholds, _SURE)
    return Contender(
        version=f"trackers {version('trackers')}",
        settings=", ".join(
            ("the sequence's frame_rate", *(f"{name}={value}" for name, value in settings.items()), "else its defaults")
        ),
        begin=lambda frame_rate, _picture: _Peer(tracker(frame_rate=frame_rate, **settings)),
    )


CONTENDERS: Final[dict[str, Contender]] = {
    OURS: Contender(
        f"detector-worker {version('detector-worker')}", f"high_confidence={_SURE}, else its defaults", _Ours
    ),
    "SORT": _peer(SORTTracker, "track_activation_threshold"),
    "ByteTrack": _peer(ByteTrackTracker, "track_activation_threshold", "high_conf_det_threshold"),
    "OC-SORT": _peer(OCSORTTracker, "high_conf_det_threshold"),
}
