"""Who is in a film: vehicles and people, drawn as the order and the camera allow."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from detector_worker.simulator.scenes.bodies import BODIES
from detector_worker.simulator.scenes.geometry import SceneCamera
from detector_worker.simulator.scenes.people import Walker
from detector_worker.simulator.scenes.script import BAY, RIGHT, WALKING, Arrival, Crossing
from detector_worker.simulator.scenes.vehicle_art import Look

__all__ = ["Casting", "crossings", "group_before"]

_SHORT_STOPS_S: Final = 6.0
"""By so much, at most, a stop at the gate is longer than the shortest."""
_ELBOW_ROOM_M: Final = 0.27
_ROWS_M: Final = (0.75, 1.3)
"""Before the vehicle: every other person stands in the second row."""


@dataclass(frozen=True, slots=True)
class Casting:
    """What was ordered of one camera's film."""

    camera: SceneCamera
    rng: random.Random
    vehicles: int
    shortest_stop_s: float
    longest_stop_s: float

    def arrival(self, lane: int, enters_s: float = 0.0) -> Arrival:
        """Draw anybody who stops for a short time."""
        camera, rng = self.camera, self.rng
        x = (-camera.lane_m, camera.lane_m, camera.bay_x)[lane] + rng.uniform(-0.12, 0.12)
        stop_m = (camera.bay_m if lane == BAY else camera.stop_m) + rng.uniform(0, 0.35)
        longer_s = min(_SHORT_STOPS_S, self.longest_stop_s - self.shortest_stop_s)
        stands_s = self.shortest_stop_s + rng.random() ** 2 * longer_s
        return Arrival(Look.random(rng), lane, x, stop_m, stands_s, enters_s)

    def parked(self, lane: int) -> Arrival:
        """Draw somebody who stands for the longest time."""
        one = self.arrival(lane)
        look = replace(one.look, body=self.rng.choice([body for body in BODIES if body != "truck"]))
        return replace(one, look=look, stands_s=self.longest_stop_s, parked=True)


def crossings(
    camera: SceneCamera, rng: random.Random, duration_s: float, pause_s: tuple[float, float]
) -> Iterator[Crossing]:
    """Now and then somebody crosses, more often behind the vehicles than in front of them.

    Args:
        camera: Whose gate it is.
        rng: Decides who and where.
        duration_s: Of the film.
        pause_s: From one to the next, at least and at most.
    """
    now_s = rng.uniform(2, 12)
    while now_s < duration_s - 12:
        z = rng.uniform(camera.stop_m + 8, 24) if rng.random() < 0.65 else rng.uniform(3.8, camera.stop_m - 0.7)
        ends = (-0.6 * z - 1, 0.6 * z + 1)
        from_x, to_x = ends if rng.random() < 0.5 else ends[::-1]
        yield Crossing(Walker.random(rng), now_s, from_x, to_x, z, z)
        now_s += rng.uniform(*pause_s)


def group_before(
    casting: Casting, one: Arrival, people: Sequence[int], comes_s: float, stay_s: float
) -> Iterator[Crossing]:
    """Let people come up to a vehicle that stands, stop right before it in two rows, and walk on.

    Args:
        casting: Of the film.
        one: It has its stop already.
        people: How many of them there may be.
        comes_s: When the first of them stands before it, seconds of the film.
        stay_s: How long all of them stand there.
    """
    rng, side = casting.rng, 1 if one.lane == RIGHT else -1
    count = rng.choice(people)
    for number in range(count):
        z = one.stop_m - _ROWS_M[number % 2] - rng.uniform(-0.1, 0.1)
        x = one.x + (number - (count - 1) / 2) * _ELBOW_ROOM_M + rng.uniform(-0.06, 0.06)
        outside = side * (0.6 * z + 1)
        way_s = abs(outside - x) / WALKING
        later_s = rng.uniform(0.0, 0.8)
        yield Crossing(
            Walker.random(rng), comes_s + later_s - way_s, outside, -outside, z, z, way_s, stay_s + rng.uniform(0, 0.8)
        )
