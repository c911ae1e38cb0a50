"""Single pictures of scenes at random, with everything that is in them: what models are trained on."""

import random
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.simulator.scenes.geometry import SceneCamera
from detector_worker.simulator.scenes.light import LIGHTS, Light
from detector_worker.simulator.scenes.people import Walker
from detector_worker.simulator.scenes.stage import Person, SeenObject, Stage, Vehicle
from detector_worker.simulator.scenes.vehicle_art import Look

__all__ = ["STILLS_PER_PLACE", "SeenObject", "still"]

STILLS_PER_PLACE: Final = 40
"""Consecutive seeds share a place and its light, which take a second or two to paint."""


def still(seed: int) -> tuple[NDArray[np.uint8], list[SeenObject]]:
    """Render a picture: BGR of shape (720, 1280, 3), uint8; the same seed gives the same picture."""
    camera, stage = _place(seed // STILLS_PER_PLACE)
    rng = random.Random(f"still {seed}")
    vehicles: list[Vehicle] = []
    for lane, nearest in (
        (-camera.lane_m, camera.stop_m),
        (camera.lane_m, camera.stop_m),
        (camera.bay_x, camera.bay_m),
    ):
        z = rng.uniform(nearest - 2.0, nearest + 6.0)
        while z < 26 and rng.random() < 0.62:
            look = Look.random(rng)
            vehicles.append(Vehicle(look, lane + rng.uniform(-0.15, 0.15), z))
            z += 5.2 + rng.uniform(0.6, 8.0)
    people = [
        Person(Walker.random(rng), rng.uniform(-6, 6), rng.uniform(3.5, 16), rng.random(), rng.random() < 0.5)
        for _ in range(rng.choice((0, 0, 1, 1, 2, 3)))
    ]
    yuv, seen = stage.picture(vehicles, people, rng.randrange(1000))
    return np.asarray(cv2.cvtColor(yuv, cv2.COLOR_YUV2BGR_I420), np.uint8), seen


@lru_cache(maxsize=1)
def _place(number: int) -> tuple[SceneCamera, Stage]:
    rng = random.Random(f"place {number}")
    camera, light = SceneCamera.random(rng), Light.make(LIGHTS[number % len(LIGHTS)], rng)
    return camera, Stage(camera, light, seed=number)
