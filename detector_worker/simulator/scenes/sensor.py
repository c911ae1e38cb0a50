"""What a camera adds by itself: noise, shake, rain in front of the lens."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.simulator.scenes.geometry import PICTURE_WH
from detector_worker.simulator.scenes.light import Light

__all__ = ["Sensor"]

_TILES: Final = 16
_SPARE_PX: Final = 64


class Sensor:
    """Turns composed pictures into what comes out of the camera. Noise and rain are tiles, made once."""

    def __init__(self, light: Light, *, seed: int) -> None:
        self._rng = np.random.default_rng((seed, 77))
        width, height = PICTURE_WH
        noise = self._rng.normal(0, light.noise, (height + _SPARE_PX, width + _SPARE_PX))
        # Noise is added as positive numbers and their mean taken away again: both saturate, and both are fast.
        self._level = np.full((height, width), round(3 * light.noise), np.uint8)
        self._noise = np.clip(noise + self._level[0, 0], 0, 255).astype(np.uint8)
        self._rain = [_streaks(self._rng, light) for _ in range(4)] if light.name == "rain" else []
        self._places = self._rng.integers(0, _SPARE_PX, (_TILES, 2)).tolist()
        self._shake_px = light.shake_px
        self._phases = self._rng.uniform(0, 6.28, 2).tolist()

    def shake(self, number: int) -> tuple[int, int]:
        """Return by how many pixels the camera is off in a picture: a mast in the wind, with gusts."""
        if not self._shake_px:
            return 0, 0
        gust = 0.5 + 0.5 * np.sin(number / 37 + self._phases[0])
        dx = self._shake_px * gust * np.sin(number * 1.7 + self._phases[0])
        dy = self._shake_px * gust * np.sin(number * 2.3 + self._phases[1])
        return round(float(dx)), round(float(dy))

    def expose(self, view: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
        """Return the picture as I420, shape (3 * H / 2, W)."""
        yuv = np.asarray(cv2.cvtColor(view, cv2.COLOR_BGR2YUV_I420), np.uint8)
        luma = yuv[: PICTURE_WH[1]]
        if self._rain:
            streaks = self._rain[number % len(self._rain)]
            shift = (number * 97) % PICTURE_WH[0]
            cv2.add(luma[:, shift:], streaks[:, : PICTURE_WH[0] - shift], dst=luma[:, shift:])
            cv2.add(luma[:, :shift], streaks[:, PICTURE_WH[0] - shift :], dst=luma[:, :shift])
        row, column = self._places[number % _TILES]
        noise = self._noise[row : row + PICTURE_WH[1], column : column + PICTURE_WH[0]]
        cv2.add(luma, noise, dst=luma)
        cv2.subtract(luma, self._level, dst=luma)
        return yuv


def _streaks(rng: np.random.Generator, light: Light) -> NDArray[np.uint8]:
    """Drops that fall while the shutter is open."""
    streaks = np.zeros((PICTURE_WH[1], PICTURE_WH[0]), np.uint8)
    for _ in range(340):
        x, y = rng.integers(0, PICTURE_WH[0]), rng.integers(-60, PICTURE_WH[1])
        length, lean = rng.integers(14, 60), rng.integers(-3, 2)
        cv2.line(streaks, (int(x), int(y)), (int(x + lean), int(y + length)), int(rng.integers(14, 52)), 1, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(streaks, (3, 3), 0.7), np.uint8)
