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
    def begin(cls, track_id: NDArray[np.int64], xyxy: Floats) -> Self:
        """Begin tracks with their first detections: standing, with a speed that may be anything."""
        position = to_cxcywh(xyxy)
        size, zeros = _size(position), np.zeros_like(position)
        return cls(
            track_id=track_id,
            hits=np.ones_like(track_id),
            unseen_s=np.zeros(len(xyxy)),
            missing_s=np.full(len(xyxy), -np.inf),
            expected=xyxy,
            position=position,
            velocity=zeros,
            position_variance=(_MEASURED_STD * size) ** 2,
            covariance=zeros.copy(),
            velocity_variance=(_FIRST_SPEED_STD * size) ** 2,
        )

    def append(self, other: Self) -> None:
        """Add tracks with greater ids."""
        for name in self.__slots__:
            setattr(self, name, np.concatenate((getattr(self, name), getattr(other, name))))

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Forget all tracks but these."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name)[mask])

    def predict(self, elapsed_s: float) -> None:
        """Move all tracks on."""
        spread = (_ACCELERATION_STD * _size(self.position)) ** 2
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

    def correct(self, rows: Rows, xyxy: Floats) -> None:
        """Give each of K distinct rows its detection, shape (K, 4)."""
        measured = to_cxcywh(xyxy)
        variance, covariance = self.position_variance[rows], self.covariance[rows]
        doubt = variance + (_MEASURED_STD * _size(measured)) ** 2
        gain, velocity_gain = variance / doubt, covariance / doubt
        surprise = measured - self.position[rows]
        self.position[rows] += gain * surprise
        self.velocity[rows] += velocity_gain * surprise
        self.position_variance[rows] -= gain * variance
        self.covariance[rows] -= gain * covariance
        self.velocity_variance[rows] -= velocity_gain * covariance
        self.hits[rows] += 1
        self.unseen_s[rows] = 0.0
        self.missing_s[rows] = -np.inf

    def squared_distance(self, rows: Rows, xyxy: Floats) -> Floats:
        """Return how surprising each detection would be for each row: squared Mahalanobis distance, shape (R, K).

        A track without a speed of its own yet forgives a wide jump, one whose motion is known forgives little.
        """
        measured = to_cxcywh(xyxy)
        gap = self.position[rows, None] - measured
        doubt = self.position_variance[rows, None] + (_MEASURED_STD * _size(measured)) ** 2
        distance: Floats = (gap**2 / doubt).sum(axis=2)
        return distance

    def sizes_per_s(self) -> Floats:
        """Return how fast each moves along x or y, whichever is more, shape (N,)."""
        speed: Floats = (np.abs(self.velocity[:, :2]) / _size(self.position)).max(axis=1, initial=0.0)
        return speed


def _size(cxcywh: Floats) -> Floats:
    """Return the square roots of the areas, shape (N, 1)."""
    wh = np.maximum(cxcywh[:, 2:], 1.0)
    size: Floats = np.sqrt(wh[:, :1] * wh[:, 1:])
    return size
