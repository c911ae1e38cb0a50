"""People who walk through a scene."""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.simulator.scenes.geometry import SceneCamera
from detector_worker.simulator.scenes.light import Light, shown
from detector_worker.simulator.scenes.sprite import Sprite

__all__ = ["PersonArtist", "Walker"]

_PHASES: Final = 8
_CANVAS_HW: Final = (384, 192)
_SKIN: Final = ((0.45, 0.55, 0.75), (0.22, 0.32, 0.48), (0.10, 0.16, 0.26))
_CLOTHES: Final = ((0.10, 0.08, 0.07), (0.45, 0.22, 0.10), (0.20, 0.22, 0.55), (0.60, 0.60, 0.58), (0.15, 0.32, 0.20),
                   (0.12, 0.45, 0.62), (0.30, 0.28, 0.26))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Walker:
    """One person: how tall, and in which clothes."""

    height_m: float
    skin: int
    top: int
    trousers: int

    @classmethod
    def random(cls, rng: random.Random) -> "Walker":
        """Anybody."""
        clothes = range(len(_CLOTHES))
        return cls(rng.uniform(1.55, 1.9), rng.randrange(len(_SKIN)), rng.choice(clothes), rng.choice(clothes))


class PersonArtist:
    """Draws people for one camera in one light."""

    def __init__(self, camera: SceneCamera, light: Light) -> None:
        self._camera, self._light = camera, light
        self._figure = lru_cache(maxsize=64)(self._draw_figure)

    def sprite(self, walker: Walker, x: float, z: float, phase: float, *, to_left: bool) -> Sprite:
        """Return the picture of a walker whose feet are at x and z; ``phase`` counts steps."""
        x1, y1, x2, y2 = self.box(walker, x, z)
        image = self._figure(walker, int(phase * _PHASES) % _PHASES)
        wh = max(4, round((y2 - y1) / 2)), max(8, round(y2 - y1))
        scaled = np.asarray(
            cv2.resize(image[:, ::-1] if to_left else image, wh, interpolation=cv2.INTER_AREA), np.uint8
        )
        return Sprite(scaled, round((x1 + x2) / 2 - wh[0] / 2), round(y1))

    def box(self, walker: Walker, x: float, z: float) -> tuple[float, float, float, float]:
        """Return the box around a walker."""
        foot, head = self._camera.project(np.array([[x, 0.0, z], [x, walker.height_m, z]]))
        half = (foot[1] - head[1]) * 0.17
        middle = (foot[0] + head[0]) / 2
        return float(middle - half), float(head[1]), float(middle + half), float(foot[1])

    def _draw_figure(self, walker: Walker, phase: int) -> NDArray[np.uint8]:
        """Draw one phase of a step at twice the largest size needed; walks to the right."""
        height, width = _CANVAS_HW
        image = np.zeros((height, width, 4), np.uint8)
        swing = np.sin(phase / _PHASES * 2 * np.pi)
        skin, top, trousers = _SKIN[walker.skin], _CLOTHES[walker.top], _CLOTHES[walker.trousers]

        def limb(
            points: list[tuple[float, float]], thick: float, albedo: tuple[float, float, float], shade: float = 1.0
        ) -> None:
            lit = self._light.on_faces(np.array([albedo]) * shade, np.array([[0.2, 0.3, -0.9]]))[0]
            colour = tuple((shown(np.clip(lit, 0, 1)) * 255).astype(int).tolist())
            corners = np.array([((0.5 + x * 0.5) * width, y * height) for x, y in points], np.int32)
            cv2.polylines(image, [corners], False, (*colour, 255), max(2, int(thick * width)), cv2.LINE_AA)

        limb([(0, 0.50), (-0.22 * swing, 0.73), (-0.42 * swing - 0.06, 0.96)], 0.15, trousers, 0.65)
        limb([(0, 0.23), (0.28 * swing, 0.38), (0.40 * swing + 0.06, 0.50)], 0.10, top, 0.65)
        limb([(0, 0.50), (0.22 * swing, 0.73), (0.36 * swing, 0.96)], 0.16, trousers)
        limb([(0.36 * swing, 0.972), (0.36 * swing + 0.12, 0.972)], 0.08, (0.05, 0.05, 0.05))
        limb([(0, 0.24), (0, 0.48)], 0.30, top)
        limb([(0, 0.24), (-0.28 * swing, 0.38), (-0.40 * swing + 0.06, 0.50)], 0.11, top)
        limb([(0.02, 0.09), (0.02, 0.15)], 0.11, skin)
        limb([(0.03, 0.08), (0.03, 0.10)], 0.20, skin)
        limb([(-0.02, 0.055), (0.02, 0.06)], 0.20, (0.05, 0.06, 0.08))
        image[..., :3] = (image[..., :3] * np.linspace(1.05, 0.8, height)[:, None, None]).clip(0, 255).astype(np.uint8)
        return image
