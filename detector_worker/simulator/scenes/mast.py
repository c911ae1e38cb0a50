"""A bad mount: a mast that sways in gusts and is jolted now and then."""

import random
from typing import Final

import numpy as np

__all__ = ["MAST_REACH_PX", "Mast"]

MAST_REACH_PX: Final = 16
"""The camera is never further off than this."""
_GUST_S: Final = (4.0, 11.0)
_JOLT_S: Final = (6.0, 20.0)
_JOLT_PX: Final = (6.0, 11.0)
_JOLT_FADES_S: Final = 0.45
_JOLT_HZ: Final = 3.2


class Mast:
    """Where the camera looks at each moment. The same seed gives the same sway."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(f"mast {seed}")
        self._sway_px = rng.uniform(6.0, 9.5)
        self._hz = rng.uniform(0.7, 1.3)
        self._phases = [rng.uniform(0, 2 * np.pi) for _ in range(4)]
        self._gusts_s = rng.uniform(*_GUST_S)
        self._jolts = np.cumsum([rng.uniform(*_JOLT_S) for _ in range(1000)])
        self._jolts_px = [(rng.uniform(*_JOLT_PX) * rng.choice((-1, 1)), rng.uniform(*_JOLT_PX)) for _ in self._jolts]

    def offset(self, film_s: float) -> tuple[int, int]:
        """Return by how many pixels the picture is off, to the right and down."""
        gust = 0.7 + 0.3 * np.sin(2 * np.pi * film_s / self._gusts_s + self._phases[0])
        turn = 2 * np.pi * self._hz * film_s
        dx = self._sway_px * gust * (0.8 * np.sin(turn + self._phases[1]) + 0.2 * np.sin(2.7 * turn + self._phases[2]))
        dy = self._sway_px * gust * 0.55 * np.sin(1.6 * turn + self._phases[3])
        latest = int(np.searchsorted(self._jolts, film_s, side="right")) - 1
        if latest >= 0:
            since_s = film_s - self._jolts[latest]
            swing = np.exp(-since_s / _JOLT_FADES_S) * np.cos(2 * np.pi * _JOLT_HZ * since_s)
            dx += self._jolts_px[latest][0] * swing
            dy += self._jolts_px[latest][1] * swing
        dx, dy = np.clip((dx, dy), -MAST_REACH_PX, MAST_REACH_PX)
        return round(float(dx)), round(float(dy))
