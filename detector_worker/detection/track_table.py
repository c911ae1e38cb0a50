"""All tracks of one lane as arrays, one row a track, and a view of a single row for the outside."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox
from detector_worker.detection.kalman import MotionStates, to_cxcywh, to_xyxy

__all__ = ["Track", "TrackFacts", "TrackTable"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_CONFIRMING_HITS: Final = 2
"""A second detection where the first one promised it, as in ByteTrack."""


@dataclass(slots=True)
class _Columns:
    """What is known of each track besides its motion; every array has N rows."""

    track_id: NDArray[np.int64]
    hits: NDArray[np.int64]
    """Detections matched so far, the first one included."""
    updated_s: Floats
    missing_since_s: Floats
    """Of the first analysed frame without it since its last detection; infinite while it is seen."""
    predicted: Floats
    """(N, 4) x1 y1 x2 y2: where it was expected in the newest frame, before that frame's detections."""
    votes: Floats
    """(N, C) confidence gathered by each class."""

    def keep(self, mask: NDArray[np.bool_]) -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name)[mask])

    def append(self, other: "_Columns") -> None:
        for name in self.__slots__:
            setattr(self, name, np.concatenate((getattr(self, name), getattr(other, name))))


@dataclass(frozen=True, slots=True)
class TrackFacts:
    """What is known of one track in the newest frame, beyond its detection."""

    class_id: int
    """The class that its detections, weighted by their confidence, speak for most."""
    predicted: BoundingBox
    """Where it was expected in the newest frame, before that frame's detections."""
    growth_per_s: float
    """How fast its box grows: the changes of width and of height, relative to them, per second, added up."""


class TrackTable:
    """The arrays, and the few things that are done to all of them at once. Rows are in ascending order of id."""

    def __init__(self) -> None:
        none = np.empty(0)
        ids = np.empty(0, np.int64)
        self.motion = MotionStates()
        self.columns = _Columns(ids, ids, none, none, np.empty((0, 4)), np.empty((0, 1)))
        self.now_s = 0.0

    def __len__(self) -> int:
        return len(self.columns.track_id)

    def row_of(self, track_id: int) -> int:
        """Return the row of a track.

        Raises:
            KeyError: No such track, or no longer.
        """
        row = int(np.searchsorted(self.columns.track_id, track_id))
        if row == len(self) or self.columns.track_id[row] != track_id:
            raise KeyError(track_id)
        return row

    def facts(self, track_id: NDArray[np.int64]) -> list[TrackFacts]:
        """Return what is known of tracks that exist, shape (K,)."""
        rows = np.searchsorted(self.columns.track_id, track_id)
        class_id = self.columns.votes[rows].argmax(axis=1)
        wh = np.maximum(self.motion.cxcywh[rows, 2:], 1.0)
        growth = (self.motion.velocity[rows, 2:] / wh).sum(axis=1)
        predicted = self.columns.predicted[rows]
        return [
            TrackFacts(class_id_, BoundingBox(*box), growth_)
            for class_id_, box, growth_ in zip(class_id.tolist(), predicted.tolist(), growth.tolist(), strict=True)
        ]

    def predict(self, elapsed_s: float) -> None:
        """Move all tracks on, and note where they are expected."""
        self.motion.predict(elapsed_s)
        self.columns.predicted = to_xyxy(self.motion.cxcywh)

    def correct(self, rows: Rows, xyxy: Floats, confidence: Floats, class_id: NDArray[np.int32]) -> None:
        """Give each of K distinct rows its detection: boxes (K, 4), confidence (K,), class_id (K,)."""
        self._widen_votes(class_id)
        self.motion.correct(rows, to_cxcywh(xyxy))
        columns = self.columns
        columns.hits[rows] += 1
        columns.updated_s[rows] = self.now_s
        columns.missing_since_s[rows] = np.inf
        columns.votes[rows, class_id] += confidence

    def append(
        self, track_id: NDArray[np.int64], xyxy: Floats, confidence: Floats, class_id: NDArray[np.int32]
    ) -> None:
        """Begin K tracks with their first detections; ids greater than all before."""
        self._widen_votes(class_id)
        count = len(track_id)
        self.motion.append(to_cxcywh(xyxy))
        votes = np.zeros((count, self.columns.votes.shape[1]))
        votes[np.arange(count), class_id] = confidence
        now_s = np.full(count, self.now_s)
        self.columns.append(
            _Columns(track_id, np.ones(count, np.int64), now_s, np.full(count, np.inf), xyxy.copy(), votes)
        )

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Forget all tracks but those that a mask of shape (N,) names."""
        self.motion.keep(mask)
        self.columns.keep(mask)

    def _widen_votes(self, class_id: NDArray[np.int32]) -> None:
        votes = self.columns.votes
        missing = int(class_id.max(initial=-1)) + 1 - votes.shape[1]
        if missing > 0:
            self.columns.votes = np.pad(votes, ((0, 0), (0, missing)))


class Track:
    """One track, seen in the table of its tracker: always as it is now, and invalid once the track is gone.

    Every member raises KeyError for a track that is gone.
    """

    __slots__ = ("_table", "track_id")

    def __init__(self, table: TrackTable, track_id: int) -> None:
        self._table, self.track_id = table, track_id
        table.row_of(track_id)

    def update(self, bounding_box: BoundingBox, confidence: float, class_id: int) -> None:
        """Give it a detection of the newest frame, found by other means than the tracker's own association."""
        box = bounding_box
        row = np.array([self._table.row_of(self.track_id)])
        xyxy = np.array([[box.x1, box.y1, box.x2, box.y2]])
        self._table.correct(row, xyxy, np.array([confidence]), np.array([class_id], np.int32))

    def predict(self, ahead_s: float = 0.0) -> BoundingBox:
        """Return where it should be ``ahead_s`` seconds after the newest frame; changes nothing."""
        row = self._table.row_of(self.track_id)
        motion = self._table.motion
        ahead = motion.cxcywh[row : row + 1] + motion.velocity[row : row + 1] * ahead_s
        x1, y1, x2, y2 = to_xyxy(ahead)[0].tolist()
        return BoundingBox(x1, y1, x2, y2)

    @property
    def is_confirmed(self) -> bool:
        """True once a second detection has borne out the first."""
        return bool(self._table.columns.hits[self._table.row_of(self.track_id)] >= _CONFIRMING_HITS)

    @property
    def time_since_update(self) -> float:
        """Seconds from its last detection to the newest frame."""
        return self._table.now_s - float(self._table.columns.updated_s[self._table.row_of(self.track_id)])
