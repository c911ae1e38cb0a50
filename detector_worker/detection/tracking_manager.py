"""Multi-object tracking: which detection of this frame is which object of the frames before.

Source:
    Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box" (ECCV 2022): confident
    detections are associated first, unsure ones only continue tracks; confirmed tracks go before new ones. Wojke et
    al., "Simple Online and Realtime Tracking with a Deep Association Metric" (ICIP 2017): the gate on the Mahalanobis
    distance. Bar-Shalom, Li, Kirubarajan, "Estimation with Applications to Tracking and Navigation" (2001), 11.2: noise
    that follows the surprise.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from detector_worker.core.entities import BoundingBox, Detections
from detector_worker.detection.box_math import area, iou_matrix, to_xyxy
from detector_worker.detection.track_table import TrackTable

__all__ = ["Track", "TrackingManager", "unsure_confidence"]

Bools = NDArray[np.bool_]
Classes = NDArray[np.int32]
Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Rows = NDArray[np.intp]

_CONFIDENT_IOU: Final = 0.2
_UNSURE_IOU: Final = 0.1  # less: where a confident detection would be somebody new, an unsure one can only be nobody
_CONFIRMED_LEAD: Final = 0.3  # of IoU: by so much must a new track fit better than a confirmed one
_DISTANCE_GATE: Final = 13.28  # 99 % of the true pairs are nearer: chi-square, four degrees of freedom
_UNCONFIRMED_S: Final = 0.5  # how long a single detection waits for a second one
_UNREST_MEMORY_S: Final = 1.0
_MOST_SURPRISE: Final = 9.0  # three standard deviations: what is further off was another object
_LEFT_SHARE: Final = 0.3  # a track of which less than this is expected inside the picture has left it
_STANDING_SIZES_PER_S: Final = 0.3
_EVERYWHERE: Final = BoundingBox(-np.inf, -np.inf, np.inf, np.inf)


def unsure_confidence(high_confidence: float) -> float:
    """Return down to which confidence the detector's results help the tracker to keep what it has."""
    return max(0.1, 0.4 * high_confidence)


class Track:
    """One track as it is now; every member raises KeyError once it is gone."""

    def __init__(self, table: TrackTable, track_id: int) -> None:
        self._table, self.track_id = table, track_id

    @property
    def _row(self) -> Rows:
        row = np.flatnonzero(self._table.track_id == self.track_id)
        if not row.size:
            raise KeyError(self.track_id)
        return row

    def update(self, bounding_box: BoundingBox) -> None:
        """Give it a detection of the newest frame, found by other means than the tracker's own association."""
        box = bounding_box
        self._table.correct(self._row, np.array([[box.x1, box.y1, box.x2, box.y2]], np.float64))

    def predict(self, ahead_s: float = 0.0) -> BoundingBox:
        """Return where it should be ``ahead_s`` seconds after the newest frame; changes nothing."""
        row = self._row
        return BoundingBox(*to_xyxy(self._table.position[row] + self._table.velocity[row] * ahead_s)[0].tolist())

    @property
    def is_confirmed(self) -> bool:
        """True once a second detection has borne out the first, as in ByteTrack."""
        return bool(self._table.hits[self._row] > 1)

    @property
    def time_since_update(self) -> float:
        """Seconds from its last detection to the newest frame."""
        return float(self._table.unseen_s[self._row].item())


class TrackingManager:
    """Follows the objects of one lane; deterministic, and the order of the detections changes nothing.

    Detections of at least ``high_confidence`` open tracks, less confident ones only continue them: let these in too. A
    track that is missing in analysed frames is looked for during ``max_lost_seconds``. With ``class_aware`` a track
    keeps the class of its first detection; without, a detector may call one car a truck now and then.

    A camera that shakes or turns makes all objects jump. How surprising the detections are on the whole tells it, and
    motion is then trusted less.
    """

    def __init__(
        self, *, max_lost_seconds: float = 2.0, high_confidence: float = 0.5, class_aware: bool = False
    ) -> None:
        self._max_lost_s, self._high_confidence, self._class_aware = max_lost_seconds, high_confidence, class_aware
        self._table = TrackTable.begin(np.empty(0, np.int64), np.empty(0, np.int32), np.empty((0, 4)))
        self._next_id = 1
        self._unrest = 1.0
        self._last_time_s: float | None = None
        self.now_s = 0.0
        """The first frame's time and all that has passed since; time that ran backwards has not."""
        self.lost: dict[int, bool] = {}
        """The tracks that the newest frame gave up; True for those that were driving out of the picture."""

    def track(self, track_id: int) -> Track:
        """Return a view of one track."""
        return Track(self._table, track_id)

    def outlook(self) -> dict[int, tuple[BoundingBox, float]]:
        """Return where each track was expected in the newest frame, and by which share its box grows in a second."""
        table = self._table
        boxes = (BoundingBox(*xyxy) for xyxy in table.expected.tolist())
        growth_per_s = (table.velocity[:, 2:] / np.maximum(table.position[:, 2:], 1.0)).sum(axis=1).tolist()
        return dict(zip(table.track_id.tolist(), zip(boxes, growth_per_s, strict=True), strict=True))

    def update_tracks(
        self, detections: Detections, frame_id: int, *, time_s: float, bounds: BoundingBox = _EVERYWHERE
    ) -> Detections:
        """Return one analysed frame's detections with ``track_id``; -1 for an unsure one that continued no track.

        A ``time_s`` that stands still or runs backwards counts as no time passed; one that is not finite raises
        ValueError. Tracks that drive out of ``bounds``, the part of the picture that is looked at, end at once.
        """
        if not math.isfinite(time_s):
            raise ValueError(f"frame {frame_id} has the time {time_s}")
        # A fixed order makes ties, and the numbers of new tracks, independent of the detector's order.
        order = np.lexsort((*detections.xyxy.T, detections.class_id, -detections.confidence))
        xyxy, class_id = detections.xyxy[order].astype(np.float64), detections.class_id[order]
        confident = detections.confidence[order] >= self._high_confidence

        self.lost = {}
        elapsed_s = self._predict(time_s, bounds)
        assigned = self._associate_detections(xyxy, class_id, confident)
        track_id = self._update_existing_tracks(assigned, xyxy, elapsed_s)
        self._cleanup_lost_tracks()
        opens = (assigned < 0) & confident
        track_id[opens] = self._create_new_tracks(xyxy[opens], class_id[opens])

        unsorted = np.empty_like(track_id)
        unsorted[order] = track_id
        return Detections(detections.xyxy, detections.confidence, detections.class_id, detections.class_names, unsorted)

    def pass_over(self, time_s: float) -> None:
        """Let the time pass to a frame that is not analysed, since nothing has moved in it."""
        self._table.unseen_s += self._advance(time_s)

    def _advance(self, time_s: float) -> float:
        """Go on to a frame's time; returns the seconds since the one before."""
        if self._last_time_s is None:
            self.now_s = self._last_time_s = time_s
        elapsed_s = max(0.0, time_s - self._last_time_s)
        self._last_time_s = time_s
        self.now_s += elapsed_s
        return elapsed_s

    def _predict(self, time_s: float, bounds: BoundingBox) -> float:
        """Move all tracks on to the frame, the bounds of which cut what is expected as they cut what is detected.

        Returns the seconds since the frame before.
        """
        elapsed_s, table = self._advance(time_s), self._table
        table.unseen_s += elapsed_s
        table.missing_s += elapsed_s
        if elapsed_s > self._max_lost_s:
            # Nobody looked for longer than a motion can be foretold: only what stood may still be there, in its place.
            self._give_up(table.sizes_per_s() > _STANDING_SIZES_PER_S)
            table.predict(0.0, unrest=1.0)
        else:
            table.predict(elapsed_s, unrest=max(1.0, self._unrest))
        table.expected = _clipped(table.expected, bounds)
        return elapsed_s

    def _associate_detections(self, xyxy: Floats, class_id: Classes, confident: Bools) -> Rows:
        """Return each detection's row in the table, or -1: shape (D,).

        First the confident detections by overlap, then the unsure ones; last, what is left of both to the tracks seen
        until now by distance, since a fast object at a low frame rate may not overlap with where its first, speedless
        detection stood.
        """
        table = self._table
        overlap = iou_matrix(table.expected, xyxy)
        enough = overlap >= np.where(confident, _CONFIDENT_IOU, _UNSURE_IOU)
        overlap += np.where(table.hits > 1, _CONFIRMED_LEAD, 0.0)[:, None]
        overlap *= enough

        def overlap_of(rows: Rows, at: Rows) -> Floats:
            return overlap.take(rows, axis=0).take(at, axis=1)  # a third of the time of one index for both

        def nearness_of(rows: Rows, at: Rows) -> Floats:
            return np.maximum(1 - table.squared_distance(rows, xyxy[at]) / _DISTANCE_GATE, 0.0)

        assigned = np.full(len(xyxy), -1, np.intp)
        free = np.ones(len(table.hits), np.bool_)
        for tracks, detections, likeness_of in (
            (free, confident, overlap_of),
            (free, ~confident, overlap_of),
            (table.missing_s < 0, assigned < 0, nearness_of),
        ):
            at = (detections & (assigned < 0)).nonzero()[0]
            rows = (tracks & free).nonzero()[0] if at.size else at
            if rows.size:
                likeness = likeness_of(rows, at)
                if self._class_aware:
                    likeness *= table.class_id[rows, None] == class_id[at]
                row, column = linear_sum_assignment(likeness, maximize=True)
                alike = likeness[row, column] > 0
                row = rows[row[alike]]
                assigned[at[column[alike]]], free[row] = row, False
        return assigned

    def _update_existing_tracks(self, assigned: Rows, xyxy: Floats, elapsed_s: float) -> Ids:
        """Give the tracks their detections; returns the track ids of the detections, -1 for none."""
        matched = assigned >= 0
        rows = assigned[matched]
        table = self._table
        np.maximum(table.missing_s, 0.0, out=table.missing_s)
        surprise = table.correct(rows, xyxy[matched])
        self._note_surprise(surprise[table.hits[rows] > 2], elapsed_s)  # before the third, a speed may be anything
        track_id = np.full(len(assigned), -1, np.int64)
        track_id[matched] = table.track_id[rows]
        return track_id

    def _note_surprise(self, surprise: Floats, elapsed_s: float) -> None:
        """Learn from one frame's surprises, shape (K,), how restless the whole picture is."""
        if surprise.size:
            weight = -np.expm1(-elapsed_s / _UNREST_MEMORY_S)
            mean = np.minimum(surprise, _MOST_SURPRISE).sum() / surprise.size
            self._unrest += float(weight * (mean - self._unrest))

    def _create_new_tracks(self, xyxy: Floats, class_id: Classes) -> Ids:
        """Begin a track with each detection; returns their ids, which never come again."""
        track_id = np.arange(self._next_id, self._next_id + len(xyxy))
        if len(xyxy):
            self._next_id += len(xyxy)
            self._table.append(TrackTable.begin(track_id, class_id, xyxy))
        return track_id

    def _cleanup_lost_tracks(self) -> None:
        """Give up the tracks that were missed for too long, or have driven out of the picture."""
        table = self._table
        missing = table.missing_s >= 0
        if missing.any():
            patience_s = np.where(table.hits > 1, self._max_lost_s, min(_UNCONFIRMED_S, self._max_lost_s))
            self._give_up((table.missing_s >= patience_s) | (missing & self._outside()))

    def _outside(self) -> Bools:
        """True for the rows whose object was expected outside the picture in the newest frame, mostly: shape (N,)."""
        wh = self._table.position[:, 2:]
        outside: Bools = area(self._table.expected) < _LEFT_SHARE * wh[:, 0] * wh[:, 1]
        return outside

    def _give_up(self, gone: Bools) -> None:
        """Forget the rows that a mask of shape (N,) names, and note them as lost."""
        if gone.any():
            left = self._outside()[gone]
            self.lost |= zip(self._table.track_id[gone].tolist(), left.tolist(), strict=True)
            self._table.keep(~gone)


def _clipped(xyxy: Floats, bounds: BoundingBox) -> Floats:
    """Cut boxes, shape (N, 4), at the edges; what lies outside becomes empty."""
    lowest, highest = np.array((bounds.x1, bounds.y1) * 2), np.array((bounds.x2, bounds.y2) * 2)
    clipped: Floats = np.minimum(np.maximum(xyxy, lowest), highest)  # np.clip costs three times as much for few boxes
    return clipped
