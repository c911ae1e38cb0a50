"""All tracks of one lane as arrays, and the Kalman filter that tells where they go.

Centre and size are four axes that do not influence each other, so each is a filter of its own with a position and a
velocity (in seconds, not frames), and every step is closed-form arithmetic on whole arrays. All noise is told in
*sizes* (the square root of a box's area): near and far objects, and cameras of any resolution, are treated alike.

Source:
    Kalman, "A New Approach to Linear Filtering and Prediction Problems" (1960); white-noise acceleration as in
    Bar-Shalom, Li, Kirubarajan, "Estimation with Applications to Tracking and Navigation" (2001), 6.2;
    the axes are those of Zhang et al., "ByteTrack" (2022).
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from detector_worker.detection.box_math import to_cxcywh, to_xyxy

__all__ = ["TrackTable"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

# For cx, cy, w, h; measured on street footage at 5 to 24 frames/s with a small detector.
_MEASURED_STD: Final = np.array([0.06, 0.06, 0.09, 0.09])  # sizes: how far a detection's box lies beside the truth
_FIRST_SPEED_STD: Final = np.array([4.0, 2.0, 1.5, 0.5])
"""Sizes per second: what is known of a speed before the second detection. A car seen from the side makes 3 to 4."""
_ACCELERATION_STD: Final = 0.5  # sizes per second squared
_MEMORY_S: Final = np.array([np.inf, np.inf, 0.5, 0.5])
"""In which a velocity dies down to 1/e unless borne out: no box grows for long, but one that drives in does."""


@dataclass(slots=True)
class TrackTable:
    """One row a track, in ascending order of ``track_id``; arrays are of shape (N,), or (N, 4) for cx, cy, w, h."""

    track_id: NDArray[np.int64]
    class_id: NDArray[np.int32]  # of its first detection
    hits: NDArray[np.int64]  # detections matched so far, the first one included
    unseen_s: Floats  # since its last detection
    missing_s: Floats  # since the first analysed frame without it; negative while it is seen
    expected: Floats  # x1 y1 x2 y2: where it was expected in the newest frame, before that frame's detections
    position: Floats
    velocity: Floats  # pixels per second
    position_variance: Floats
    covariance: Floats
    velocity_variance: Floats

    @classmethod
    def begin(cls, track_id: NDArray[np.int64], class_id: NDArray[np.int32], xyxy: Floats) -> Self:
        """Begin tracks with their first detections: standing, with a speed that may be anything."""
        position = to_cxcywh(xyxy)
        area, zeros = _area(position), np.zeros_like(position)
        return cls(
            track_id=track_id,
            class_id=class_id,
            hits=np.ones_like(track_id),
            unseen_s=np.zeros(len(xyxy)),
            missing_s=np.full(len(xyxy), -np.inf),
            expected=xyxy,
            position=position,
            velocity=zeros,
            position_variance=_MEASURED_STD**2 * area,
            covariance=zeros.copy(),
            velocity_variance=_FIRST_SPEED_STD**2 * area,
        )

    def append(self, other: Self) -> None:
        """Add tracks with greater ids."""
        for name in self.__slots__:
            setattr(self, name, np.concatenate((getattr(self, name), getattr(other, name))))

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Forget all tracks but these."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name)[mask])

    def predict(self, elapsed_s: float, *, unrest: float = 1.0) -> None:
        """Move all tracks on; ``unrest`` tells how many times stronger than usual accelerations are."""
        spread = (_ACCELERATION_STD * unrest) ** 2 * _area(self.position)
        self.position += self.velocity * elapsed_s
        self.position_variance += (
            2 * elapsed_s * self.covariance + elapsed_s**2 * self.velocity_variance + spread * (elapsed_s**4 / 4)
        )
        self.covariance += elapsed_s * self.velocity_variance + spread * (elapsed_s**3 / 2)
        self.velocity_variance += spread * elapsed_s**2
        fading = np.exp(-elapsed_s / _MEMORY_S)
        self.velocity *= fading
        self.covariance *= fading
        self.velocity_variance *= fading**2
        self.expected = to_xyxy(self.position)

    def correct(self, rows: Rows, xyxy: Floats) -> Floats:
        """Give each of K distinct rows its detection, shape (K, 4).

        Returns:
            How surprising the place of each was, shape (K,): the squared distance of its centre from where it was
            expected, over its variance. The mean is 1 while the noise is what it is taken for.
        """
        # All rows are reckoned, those without a detection with a gain of nothing: quicker than picking out and putting
        # back each array's rows.
        measured, gain = self.position.copy(), np.zeros((len(self.hits), 1))
        measured[rows], gain[rows] = to_cxcywh(xyxy), 1.0
        surprise = measured - self.position
        doubt = self.position_variance + _MEASURED_STD**2 * _area(measured)
        gain = gain / doubt
        gain, velocity_gain = gain * self.position_variance, gain * self.covariance
        self.position += gain * surprise
        self.velocity += velocity_gain * surprise
        self.position_variance -= gain * self.position_variance
        self.velocity_variance -= velocity_gain * self.covariance
        self.covariance -= gain * self.covariance
        self.hits[rows] += 1
        self.unseen_s[rows] = 0.0
        self.missing_s[rows] = -np.inf
        surprise_squared: Floats = (surprise[rows, :2] ** 2 / doubt[rows, :2]).sum(axis=1) * 0.5
        return surprise_squared

    def squared_distance(self, rows: Rows, xyxy: Floats) -> Floats:
        """Return how surprising each detection would be for each row: squared Mahalanobis distance, shape (R, K).

        A track without a speed of its own yet forgives a wide jump, one whose motion is known forgives little.
        """
        measured = to_cxcywh(xyxy)
        gap = self.position[rows, None] - measured
        doubt = self.position_variance[rows, None] + _MEASURED_STD**2 * _area(measured)
        distance: Floats = (gap**2 / doubt).sum(axis=2)
        return distance

    def sizes_per_s(self) -> Floats:
        """Return how fast each moves along x or y, whichever is more, shape (N,)."""
        speed: Floats = (np.abs(self.velocity[:, :2]) / np.sqrt(_area(self.position))).max(axis=1, initial=0.0)
        return speed


def _area(cxcywh: Floats) -> Floats:
    """Return the areas, squares of the sizes: shape (N, 1)."""
    wh = np.maximum(cxcywh[:, 2:], 1.0)
    area: Floats = wh[:, :1] * wh[:, 1:]
    return area
