"""A constant-velocity Kalman filter for many boxes at once, in seconds.

Centre and size are four axes that do not influence each other, so each axis of each track is its own filter
with two states, position and velocity, and every step is closed-form arithmetic on whole arrays: no matrix
is ever inverted. All noise is told in *sizes* (the square root of a box's area), so that near and far
objects, and cameras of any resolution, are treated alike.

Source:
    Kalman, "A New Approach to Linear Filtering and Prediction Problems" (1960); white-noise acceleration as in
    Bar-Shalom, Li, Kirubarajan, "Estimation with Applications to Tracking and Navigation" (2001), 6.2;
    the axes are those of Zhang et al., "ByteTrack" (2022).
"""

from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["MotionStates", "to_cxcywh", "to_xyxy"]

Floats = NDArray[np.float64]

# Per axis cx, cy, w, h. Measured on street footage at 5 to 24 frames/s with a small detector.
_MEASURED_STD: Final = np.array([0.06, 0.06, 0.09, 0.09])
"""Sizes: how far a detection's box lies beside the truth."""
_FIRST_SPEED_STD: Final = np.array([4.0, 2.0, 1.5, 0.5])
"""Sizes per second: what is known of a speed before the second detection. A car seen from the side makes 3 to 4."""
_ACCELERATION_STD: Final = np.array([0.5, 0.5, 0.5, 0.5])
"""Sizes per second squared."""
_MEMORY_S: Final = np.array([np.inf, np.inf, 0.5, 0.5])
"""Seconds in which a velocity dies down to 1/e unless borne out: no box grows for long, but one that drives in does."""
_SMALLEST_PX: Final = 1.0


def to_cxcywh(xyxy: Floats) -> Floats:
    """Corners, shape (N, 4), to centre and size."""
    return np.concatenate(((xyxy[:, :2] + xyxy[:, 2:]) * 0.5, xyxy[:, 2:] - xyxy[:, :2]), axis=1)


def to_xyxy(cxcywh: Floats) -> Floats:
    """Centre and size, shape (N, 4), to corners; sizes below a pixel count as one."""
    half_wh = np.maximum(cxcywh[:, 2:], _SMALLEST_PX) * 0.5
    return np.concatenate((cxcywh[:, :2] - half_wh, cxcywh[:, :2] + half_wh), axis=1)


def _sizes(cxcywh: Floats) -> Floats:
    """Return the square root of the areas, shape (N, 1), pixels."""
    wh = np.maximum(cxcywh[:, 2:], _SMALLEST_PX)
    sizes: Floats = np.sqrt(wh[:, :1] * wh[:, 1:])
    return sizes


class MotionStates:
    """Where N boxes are and how they move, and how well that is known.

    One array of shape (5, N, 4) holds, for cx, cy, w, h: position (pixels), velocity (pixels per second),
    and the variances position-position, position-velocity, velocity-velocity.
    """

    __slots__ = ("_planes",)

    def __init__(self, planes: Floats | None = None) -> None:
        self._planes: Floats = np.empty((5, 0, 4)) if planes is None else planes

    def __len__(self) -> int:
        return len(self._planes[0])

    @property
    def cxcywh(self) -> Floats:
        """Where they are, shape (N, 4), pixels."""
        return cast("Floats", self._planes[0])

    @property
    def velocity(self) -> Floats:
        """Of cx, cy, w, h: shape (N, 4), pixels per second."""
        return cast("Floats", self._planes[1])

    def sizes(self) -> Floats:
        """Return the square roots of the areas, shape (N,), pixels."""
        return _sizes(self._planes[0])[:, 0]

    def append(self, measured: Floats) -> None:
        """Add boxes seen for the first time, cx cy w h, shape (K, 4): standing, with a speed that may be anything."""
        sizes = _sizes(measured)
        planes = np.zeros((5, *measured.shape))
        planes[0] = measured
        planes[2] = (_MEASURED_STD * sizes) ** 2
        planes[4] = (_FIRST_SPEED_STD * sizes) ** 2
        self._planes = np.concatenate((self._planes, planes), axis=1)

    def keep(self, mask: NDArray[np.bool_]) -> None:
        """Forget all but those that a mask of shape (N,) names."""
        self._planes = self._planes[:, mask]

    def predict(self, elapsed_s: float) -> None:
        """Move all of them on by ``elapsed_s`` >= 0 seconds."""
        position, velocity, pp, pv, vv = self._planes
        spread = (_ACCELERATION_STD * _sizes(position)) ** 2
        position += velocity * elapsed_s
        pp += 2 * elapsed_s * pv + elapsed_s**2 * vv + spread * (elapsed_s**4 / 4)
        pv += elapsed_s * vv + spread * (elapsed_s**3 / 2)
        vv += spread * elapsed_s**2
        fading = np.exp(-elapsed_s / _MEMORY_S)
        velocity *= fading
        pv *= fading
        vv *= fading**2

    def correct(self, rows: NDArray[np.intp], measured: Floats) -> None:
        """Learn from one detection, cx cy w h, shape (K, 4), for each of K distinct rows."""
        position, velocity, pp, pv, vv = self._planes[:, rows]
        noise = (_MEASURED_STD * _sizes(measured)) ** 2
        position_gain, velocity_gain = pp / (pp + noise), pv / (pp + noise)
        surprise = measured - position
        rest = 1 - position_gain
        self._planes[:, rows] = np.stack(
            (
                position + position_gain * surprise,
                velocity + velocity_gain * surprise,
                rest * pp,
                rest * pv,
                vv - velocity_gain * pv,
            )
        )

    def squared_distance(self, rows: NDArray[np.intp], measured: Floats) -> Floats:
        """Return how surprising each detection would be for each row: squared Mahalanobis distance, shape (R, K).

        A track without a speed of its own yet forgives a wide jump, one whose motion is known forgives little.
        """
        expected, variance = self._planes[0][rows], self._planes[2][rows]
        noise = (_MEASURED_STD * _sizes(measured)) ** 2
        distance = np.zeros((len(rows), len(measured)))
        for axis in range(4):
            gap = expected[:, None, axis] - measured[:, axis]
            distance += gap**2 / (variance[:, None, axis] + noise[:, axis])
        return distance
