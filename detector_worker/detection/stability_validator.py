"""When a track has been seen often, long and steadily enough to be a real object."""

from dataclasses import dataclass
from typing import Final

from detector_worker.core.entities import BoundingBox

__all__ = ["StabilityValidator"]

_FORGOTTEN_AFTER_S: Final = 3600.0  # a track of which nothing was heard for so long is gone, even if nobody said so


@dataclass(slots=True)
class _History:
    first_s: float
    last_s: float
    last_box: BoundingBox
    matched: int = 1
    iou_sum: float = 0.0


class StabilityValidator:
    """Applies the archive's stability rule to the tracks of one lane.

    A track is stable when it was matched in at least ``min_frames`` analysed frames over at least ``min_seconds``, with
    a mean IoU of at least ``min_iou`` with its predicted box or, if that fits better, its previous one. (At few frames
    a second the boxes of a fast object hardly overlap each other; they overlap their prediction.)
    """

    def __init__(self, *, min_frames: int, min_seconds: float, min_iou: float) -> None:
        self._min_frames, self._min_seconds, self._min_iou = min_frames, min_seconds, min_iou
        self._histories: dict[int, _History] = {}

    def add_detection(
        self, track_id: int, bounding_box: BoundingBox, *, time_s: float, predicted: BoundingBox | None = None
    ) -> None:
        """Note that a track was matched; ``predicted`` is where it was expected, if anybody foretold it."""
        history = self._histories.get(track_id)
        if history is None:
            self._cleanup_old_detections(time_s)
            self._histories[track_id] = _History(time_s, time_s, bounding_box)
            return
        history.iou_sum += max(bounding_box.iou(history.last_box), bounding_box.iou(predicted or history.last_box))
        history.matched += 1
        history.last_s, history.last_box = time_s, bounding_box

    def is_detection_stable(self, track_id: int) -> bool:
        """True if the track has fulfilled the rule; False for unknown tracks."""
        history = self._histories.get(track_id)
        return (
            history is not None
            and history.matched >= self._min_frames
            and history.last_s - history.first_s >= self._min_seconds
            and self._calculate_stability(track_id) >= self._min_iou
        )

    def forget(self, track_id: int) -> None:
        """The track has ended."""
        self._histories.pop(track_id, None)

    def _calculate_stability(self, track_id: int) -> float:
        """Return the mean IoU with the expected boxes; 1 where there is one detection only."""
        history = self._histories[track_id]
        return history.iou_sum / (history.matched - 1) if history.matched > 1 else 1.0

    def _cleanup_old_detections(self, now_s: float) -> None:
        for track_id in [key for key, value in self._histories.items() if now_s - value.last_s > _FORGOTTEN_AFTER_S]:
            self.forget(track_id)
