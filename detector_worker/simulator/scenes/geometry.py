"""Where a point of the world lies in a scene camera's picture.

World: metres; x to the right, y up from the ground, z along the road away from the camera, which stands above z = 0.
Vehicles drive towards it, so a vehicle's place is the z of its front.
"""

import math
import random
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["PICTURE_WH", "STOP_DISTANCES_M", "Floats", "SceneCamera", "on_road"]

Floats = NDArray[np.float64]

PICTURE_WH: Final = (1280, 720)
STOP_DISTANCES_M: Final = (5.4, 6.6, 7.8, 9.0, 10.8)
"""Of the stop line: the largest plates to the smallest."""
_GATE_ROW: Final = 590.0
"""In which row of the picture the ground at the stop line lies."""
_HIGHEST_PARKED_M: Final = 2.3
_NEAREST_M: Final = 0.8
"""What is nearer than this is below the picture's edge."""


@dataclass(frozen=True, slots=True)
class SceneCamera:
    """A pinhole camera above a gate."""

    height_m: float
    offset_m: float
    """To the right of the middle between the two lanes."""
    focal_px: float
    stop_m: float
    """Distance of the stop line."""
    lane_m: float
    """Half the distance between the middles of the two lanes."""

    @classmethod
    def random(cls, rng: random.Random, *, stop_m: float | None = None) -> Self:
        """Make one as integrators mount them: plates stand 14 to 40 pixels high where vehicles stop.

        Args:
            rng: Decides what is not given.
            stop_m: One of ``STOP_DISTANCES_M``.
        """
        if stop_m is None:
            stop_m = rng.choice(STOP_DISTANCES_M)
        zoomed = stop_m < 6
        return cls(
            height_m=rng.uniform(3.3, 3.9),
            offset_m=rng.uniform(-0.9, 0.9) * (0.3 if zoomed else 1),
            focal_px=rng.uniform(1180, 1380) * (1.24 if zoomed else 1),
            stop_m=stop_m,
            lane_m=1.45 + 0.1 * (stop_m - 5.4),
        )

    @property
    def bay_x(self) -> float:
        """The middle of the parking bay, on the left of the lanes."""
        return -2 * self.lane_m - 1.7

    @property
    def bay_m(self) -> float:
        """Distance of a parked vehicle's front: so far that all of it is in the picture."""
        half_view = PICTURE_WH[0] / 2 / self.focal_px
        return max(1.25 * self.stop_m, (self.offset_m - self.bay_x + 1.15) / half_view)

    @property
    def has_bay(self) -> bool:
        """Whether the bay is in the picture: not before a camera that is zoomed in on the gate."""
        roof = self.project(np.array([[self.bay_x, _HIGHEST_PARKED_M, self.bay_m]]))
        return bool(roof[0, 1] > 0)

    @property
    def pitch(self) -> float:
        """How far it looks down, radians."""
        return math.atan(self.height_m / self.stop_m) - math.atan((_GATE_ROW - PICTURE_WH[1] / 2) / self.focal_px)

    @property
    def horizon_px(self) -> float:
        """The row of the horizon; may be above the picture."""
        return PICTURE_WH[1] / 2 - self.focal_px * math.tan(self.pitch)

    def project(self, points: Floats) -> Floats:
        """Project points of shape (N, 3); returns (N, 3): column, row, and the distance along the line of sight."""
        sin, cos = math.sin(self.pitch), math.cos(self.pitch)
        x, y, z = points[:, 0] - self.offset_m, points[:, 1] - self.height_m, points[:, 2]
        depth = np.maximum(z * cos - y * sin, _NEAREST_M)
        column = PICTURE_WH[0] / 2 + self.focal_px * x / depth
        row = PICTURE_WH[1] / 2 - self.focal_px * (y * cos + z * sin) / depth
        return np.stack((column, row, depth), axis=1)

    def position(self) -> Floats:
        """Return where it is, shape (3,)."""
        return np.array((self.offset_m, self.height_m, 0.0))


def on_road(x: float, z: float) -> Floats:
    """Return the point of the ground at x and z, shape (3,): added to local coordinates it puts a thing there."""
    return np.array((x, 0.0, z))
