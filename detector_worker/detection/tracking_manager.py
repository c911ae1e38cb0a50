"""Multi-object tracking: which detection of this frame is which object of the frames before.

Pure: time is an argument. One instance a lane, one thread at a time, deterministic: the order of the
detections changes nothing.

Source:
    Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box" (ECCV 2022): confident
    detections are associated first, unsure ones only continue tracks. Wojke et al., "Simple Online and
    Realtime Tracking with a Deep Association Metric" (ICIP 2017): the gate on the Mahalanobis distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from detector_worker.core.entities import BoundingBox, Detections
from detector_worker.detection.box_math import area, iou_matrix
from detector_worker.detection.kalman import to_cxcywh, to_xyxy
from detector_worker.detection.track_table import Track, TrackFacts, TrackTable

__all__ = ["LostTrack", "Track", "TrackingManager", "unsure_confidence"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_LEAST_CONFIDENCE: Final = 0.1
_UNSURE_SHARE: Final = 0.4
_CONFIDENT_IOU: Final = 0.2
_UNSURE_IOU: Final = 0.4
"""An unsure detection must lie where a track expects it."""
_DISTANCE_GATE: Final = 13.28
"""99 % of the true pairs are nearer: chi-square, four degrees of freedom."""
_FALLBACK_S: Final = 1.2
"""By distance alone only tracks seen this recently go on: later, anything would be near enough."""
_SAME_LENGTH: Final = 0.5
"""Logarithm of the largest ratio of two widths, or heights, that count as the same."""
_UNCONFIRMED_S: Final = 0.5
"""How long a single detection waits for a second one."""
_LEFT_SHARE: Final = 0.3
"""A track of which less than this is expected inside the picture has left it."""
_STANDING_SIZES_PER_S: Final = 0.3
_EVERYWHERE: Final = BoundingBox(-np.inf, -np.inf, np.inf, np.inf)


def unsure_confidence(high_confidence: float) -> float:
    """Return down to which confidence the detector's results help the tracker to keep what it has."""
    return max(_LEAST_CONFIDENCE, _UNSURE_SHARE * high_confidence)


@dataclass(frozen=True, slots=True)
class LostTrack:
    """A track that has just been given up."""

    track_id: int
    predicted: BoundingBox
    """Where it would be now."""
    left: bool
    """It was driving out of the picture."""


class TrackingManager:
    """Follows the objects of one lane."""

    def __init__(
        self, *, max_lost_seconds: float = 2.0, high_confidence: float = 0.5, class_aware: bool = False
    ) -> None:
        """Begin without tracks.

        Args:
            max_lost_seconds: How long a track that is missing in analysed frames is looked for, > 0.
            high_confidence: Detections from here on open tracks; less confident ones only continue tracks.
            class_aware: A detection continues only tracks of its own class. Off by default: detectors call
                one vehicle a car in this frame and a truck in the next.
        """
        self._max_lost_s = max_lost_seconds
        self._high_confidence = high_confidence
        self._class_aware = class_aware
        self._table = TrackTable()
        self._next_id = 1
        self._last_time_s: float | None = None
        self._lost: tuple[LostTrack, ...] = ()

    @property
    def track_ids(self) -> Sequence[int]:
        """All tracks that are followed or looked for, ascending."""
        ids: list[int] = self._table.columns.track_id.tolist()
        return ids

    @property
    def lost(self) -> tuple[LostTrack, ...]:
        """The tracks that the newest frame gave up."""
        return self._lost

    def track(self, track_id: int) -> Track:
        """Return a view of one track.

        Raises:
            KeyError: No such track, or no longer.
        """
        return Track(self._table, track_id)

    def facts(self, track_id: NDArray[np.int64]) -> list[TrackFacts]:
        """Return what is known of the tracks with these ids, shape (K,), all of them existing."""
        return self._table.facts(track_id)

    def update_tracks(
        self, detections: Detections, frame_id: int, *, time_s: float, bounds: BoundingBox = _EVERYWHERE
    ) -> Detections:
        """Associate one analysed frame.

        Args:
            detections: Of this frame; may be none. Let unsure ones in: they keep tracks alive.
            frame_id: Of this frame; the association itself goes by time alone.
            time_s: Of this frame. One that stands still or runs backwards counts as no time passed.
            bounds: The part of the picture that is looked at, pixels: tracks that drive out of it end at once.

        Returns:
            The same rows with ``track_id``; -1 for an unsure detection that continued no track.

        Raises:
            ValueError: ``time_s`` is not a finite number.
        """
        if not np.isfinite(time_s):
            raise ValueError(f"frame {frame_id} has the time {time_s}")
        elapsed_s = self._advance(time_s)
        # A fixed order makes ties, and the numbers of new tracks, independent of the detector's order.
        order = np.lexsort((*detections.xyxy.T, detections.class_id, -detections.confidence))
        xyxy = detections.xyxy[order].astype(np.float64)
        confidence = detections.confidence[order].astype(np.float64)
        class_id = detections.class_id[order]

        self._lost = ()
        self._predict(elapsed_s, bounds)
        assigned = self._associate_detections(xyxy, confidence, class_id)
        track_id = self._update_existing_tracks(assigned, xyxy, confidence, class_id)
        self._cleanup_lost_tracks(bounds)
        opens = (assigned < 0) & (confidence >= self._high_confidence)
        track_id[opens] = self._create_new_tracks(xyxy[opens], confidence[opens], class_id[opens])

        unsorted = np.empty(len(order), np.int64)
        unsorted[order] = track_id
        return replace(detections, track_id=unsorted)

    def _advance(self, time_s: float) -> float:
        """Return the seconds since the last frame; none have passed where time stood still or ran backwards."""
        elapsed_s = 0.0 if self._last_time_s is None else max(0.0, time_s - self._last_time_s)
        self._last_time_s = time_s
        return elapsed_s

    def _predict(self, elapsed_s: float, bounds: BoundingBox) -> None:
        """Move all tracks on to the frame, the bounds of which cut what is expected as they cut what is detected."""
        table = self._table
        table.now_s += elapsed_s
        if elapsed_s > self._max_lost_s:
            # Nobody looked for longer than a motion can be foretold; only what stood may still be there.
            speed = np.abs(table.motion.velocity[:, :2]).max(axis=1, initial=0.0)
            self._give_up(speed > _STANDING_SIZES_PER_S * table.motion.sizes(), bounds)
        table.predict(min(elapsed_s, self._max_lost_s))
        table.columns.predicted = _clipped(table.columns.predicted, bounds)

    def _associate_detections(self, xyxy: Floats, confidence: Floats, class_id: NDArray[np.int32]) -> Rows:
        """Return each detection's row in the table, or -1: shape (D,).

        First the confident detections to all tracks, by overlap; then the unsure ones to the tracks that were
        seen until now; last, what is left on both sides by distance, since a fast object at a low frame rate
        may not overlap with where its first, speedless detection stood.
        """
        assigned = np.full(len(xyxy), -1, np.intp)
        columns = self._table.columns
        if not len(xyxy) or not len(columns.track_id):
            return assigned
        overlap = iou_matrix(columns.predicted, xyxy)
        if self._class_aware:
            overlap[columns.votes.argmax(axis=1)[:, None] != class_id[None]] = 0.0
        high = confidence >= self._high_confidence
        seen_until_now = np.isinf(columns.missing_since_s)
        for tracks, wanted, at_least in (
            (np.ones_like(seen_until_now), high, _CONFIDENT_IOU),
            (seen_until_now, ~high, _UNSURE_IOU),
        ):
            rows, at = _free(assigned, tracks, wanted)
            if len(rows) and len(at):
                _assign(assigned, rows, at, _cut_off(overlap[np.ix_(rows, at)], at_least))
        # A track with a single detection may be anywhere by now, unless that was in the frame before.
        recent = (columns.hits > 1) & (self._table.now_s - columns.updated_s <= _FALLBACK_S)
        for tracks, wanted in ((seen_until_now | recent, high), (seen_until_now, ~high)):
            rows, at = _free(assigned, tracks, wanted)
            if len(rows) and len(at):
                _assign(assigned, rows, at, self._nearness(rows, xyxy[at], class_id[at]))
        return assigned

    def _nearness(self, rows: Rows, xyxy: Floats, class_id: NDArray[np.int32]) -> Floats:
        """Return how well detections fit tracks by distance and form alone, shape (R, D): 1 exactly, 0 not at all."""
        columns = self._table.columns
        nearness = _cut_off(1 - self._table.motion.squared_distance(rows, to_cxcywh(xyxy)) / _DISTANCE_GATE, 0.0)
        # What an edge cuts keeps its height or its width; a box that changes both is something else.
        first = np.log(np.maximum(columns.predicted[rows, 2:] - columns.predicted[rows, :2], 1.0))
        second = np.log(np.maximum(xyxy[:, 2:] - xyxy[:, :2], 1.0))
        for_all = (np.abs(first[:, None, axis] - second[None, :, axis]) > _SAME_LENGTH for axis in (0, 1))
        nearness[np.logical_and(*for_all)] = 0.0
        if self._class_aware:
            nearness[columns.votes[rows].argmax(axis=1)[:, None] != class_id[None]] = 0.0
        return nearness

    def _update_existing_tracks(
        self, assigned: Rows, xyxy: Floats, confidence: Floats, class_id: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """Give the tracks their detections; returns the track ids of the detections, -1 for none."""
        columns = self._table.columns
        matched = assigned >= 0
        missing = np.isinf(columns.missing_since_s)
        columns.missing_since_s[missing] = self._table.now_s
        track_id = np.full(len(assigned), -1, np.int64)
        if matched.any():
            rows = assigned[matched]
            self._table.correct(rows, xyxy[matched], confidence[matched], class_id[matched])
            track_id[matched] = columns.track_id[rows]
        return track_id

    def _create_new_tracks(self, xyxy: Floats, confidence: Floats, class_id: NDArray[np.int32]) -> NDArray[np.int64]:
        """Begin a track with each detection; returns their ids, which never come again."""
        track_id = np.arange(self._next_id, self._next_id + len(xyxy), dtype=np.int64)
        self._next_id += len(xyxy)
        if len(xyxy):
            self._table.append(track_id, xyxy, confidence, class_id)
        return track_id

    def _cleanup_lost_tracks(self, bounds: BoundingBox) -> None:
        """Give up the tracks that were missed for too long, or have driven out of the picture."""
        columns = self._table.columns
        missing = np.isfinite(columns.missing_since_s)
        if missing.any():
            patience_s = np.where(columns.hits > 1, self._max_lost_s, min(_UNCONFIRMED_S, self._max_lost_s))
            overdue = self._table.now_s - columns.missing_since_s >= patience_s
            self._give_up(overdue | (missing & self._outside(bounds)), bounds)

    def _outside(self, bounds: BoundingBox) -> NDArray[np.bool_]:
        xyxy = to_xyxy(self._table.motion.cxcywh)
        visible: Floats = area(_clipped(xyxy, bounds))
        return visible < _LEFT_SHARE * area(xyxy)

    def _give_up(self, gone: NDArray[np.bool_], bounds: BoundingBox) -> None:
        """Forget the rows that a mask of shape (N,) names, and note them as lost."""
        if not gone.any():
            return
        left = self._outside(bounds)
        ids = self._table.columns.track_id
        self._lost += tuple(
            LostTrack(int(ids[row]), self.track(int(ids[row])).predict(), bool(left[row]))
            for row in np.flatnonzero(gone)
        )
        self._table.keep(~gone)


def _clipped(xyxy: Floats, bounds: BoundingBox) -> Floats:
    """Cut boxes, shape (N, 4), at the edges; what lies outside becomes empty."""
    lower, upper = (bounds.x1, bounds.y1) * 2, (bounds.x2, bounds.y2) * 2
    return np.clip(xyxy, np.array(lower), np.array(upper))


def _cut_off(likeness: Floats, at_least: float) -> Floats:
    """Count less likeness than ``at_least`` as none."""
    return np.where(likeness >= at_least, likeness, 0.0)


def _free(assigned: Rows, tracks: NDArray[np.bool_], detections: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """Return the rows of those tracks, and of those detections, that are not assigned yet.

    Args:
        assigned: Row of each detection's track or -1, shape (D,).
        tracks: Which are asked for, shape (T,).
        detections: Which are asked for, shape (D,).
    """
    free = tracks.copy()
    free[assigned[assigned >= 0]] = False
    return np.flatnonzero(free), np.flatnonzero(detections & (assigned < 0))


def _assign(assigned: Rows, rows: Rows, detections: Rows, likeness: Floats) -> None:
    """Assign these detections to these tracks, writing into ``assigned``, so that the likeness in all is greatest.

    Args:
        assigned: Row of each detection's track or -1, shape (D,).
        rows: Free tracks, shape (R,).
        detections: Free detections, shape (K,).
        likeness: Shape (R, K); pairs without any are not assigned.
    """
    if not likeness.any():
        return
    picked_rows, picked = linear_sum_assignment(likeness, maximize=True)
    alike = likeness[picked_rows, picked] > 0
    assigned[detections[picked[alike]]] = rows[picked_rows[alike]]
