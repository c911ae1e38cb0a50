"""The light of a film, and what it does to a face."""

import random
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from detector_worker.simulator.scenes.geometry import Floats

__all__ = ["LIGHTS", "Light", "LightName", "shown"]

LightName = Literal["day", "dusk", "night", "rain"]
LIGHTS: Final[tuple[LightName, ...]] = ("day", "night", "rain", "dusk", "day", "night", "day", "dusk", "day", "night")
"""Of the cameras 1 to 10, and so on: 30 % night, 10 % rain."""


def shown(light: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return how bright a camera shows an amount of light, any shape; 0 stays 0, and 1 stays 1."""
    return np.asarray(light ** (1 / 1.9))


@dataclass(frozen=True, slots=True)
class Light:
    """One film's light. Colours are BGR, 1 is full white."""

    name: LightName
    sun: Floats
    """Direction towards it, unit length."""
    sun_colour: Floats
    ambient: Floats
    zenith: Floats
    horizon: Floats
    shadow: float
    """How dark what the vehicles keep the sun from is, 0 to 1."""
    noise: float
    """Standard deviation in grey levels."""
    headlights: bool
    shake_px: float
    has_lamp: bool
    """Whether a lamp above the gate makes a pool of light."""

    @classmethod
    def make(cls, name: LightName, rng: random.Random) -> Self:
        """Make a light of a kind; no two are quite the same."""
        around, up = rng.uniform(-1.2, 1.2), rng.uniform(0.5, 1.1)
        if name == "dusk":
            up = rng.uniform(0.12, 0.3)
        sun = np.array((np.sin(around), up, -np.cos(around)))
        strength = rng.uniform(0.9, 1.1)
        values = {
            "day": ((0.80, 0.92, 1.0), (0.62, 0.56, 0.52), (0.95, 0.72, 0.48), (0.98, 0.92, 0.86), 0.55, 1.3),
            "dusk": ((0.25, 0.42, 0.62), (0.40, 0.33, 0.30), (0.50, 0.34, 0.28), (0.45, 0.52, 0.70), 0.35, 1.9),
            "night": ((0.30, 0.42, 0.50), (0.10, 0.09, 0.085), (0.05, 0.035, 0.03), (0.10, 0.08, 0.07), 0.45, 2.6),
            "rain": ((0.10, 0.10, 0.10), (0.56, 0.54, 0.52), (0.62, 0.60, 0.58), (0.72, 0.71, 0.70), 0.30, 1.7),
        }[name]
        sun_colour, ambient, zenith, horizon, shadow, noise = values
        if name == "night":  # the "sun" is the lamp above the gate
            sun = np.array((rng.uniform(-0.5, 0.5), 0.9, -0.7))
        return cls(
            name=name,
            sun=sun / np.linalg.norm(sun),
            sun_colour=np.array(sun_colour) * strength,
            ambient=np.array(ambient) * strength,
            zenith=np.array(zenith),
            horizon=np.array(horizon),
            shadow=shadow,
            noise=noise * rng.uniform(0.7, 1.3),
            headlights=name != "day" or rng.random() < 0.3,
            shake_px=rng.choice((0.0, 0.0, 1.0, 2.0)),
            has_lamp=name == "night",
        )

    def on_faces(self, albedo: Floats, normals: Floats) -> Floats:
        """Light dull surfaces: shapes (N, 3) and (N, 3)."""
        sky = 0.62 + 0.38 * normals[:, 1:2]
        sun = np.clip(normals @ self.sun, 0, 1)[:, None]
        return albedo * (self.ambient * sky + self.sun_colour * sun)

    def mirrored(self, rays: Floats) -> Floats:
        """What is seen along rays of shape (N, 3): the sky, a dark row of houses, the ground."""
        up = rays[:, 1:2]
        sky = self.horizon + (self.zenith - self.horizon) * np.clip(up, 0, 1) ** 0.6
        ground = self.on_faces(np.full((1, 3), 0.32), np.array([[0.0, 1.0, 0.0]]))
        houses = self.ambient * 0.35
        nearly = np.clip((up - 0.10) / 0.10, 0, 1)
        seen = houses + (sky - houses) * nearly
        return np.where(up > 0.0, seen, ground * (0.5 - 0.5 * np.clip(up, -1, 0)))
