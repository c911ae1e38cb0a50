"""What happens in a film: who comes when, into which lane, how long it stands, who walks by. Deterministic by seed."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from detector_worker.simulator.scenes.bodies import BODIES, shape_of
from detector_worker.simulator.scenes.geometry import SceneCamera
from detector_worker.simulator.scenes.people import Walker
from detector_worker.simulator.scenes.vehicle_art import Look

__all__ = ["Arrival", "Crossing", "Script", "write_script"]

LEFT, RIGHT, BAY = range(3)
_ENTRY_M: Final = 39.0
_SPEED: Final = 9.0
_BRAKING: Final = 2.3
_SETTING_OFF: Final = 1.9
_QUEUE_GAP_M: Final = 2.4
_STEP_S: Final = 0.02
_GONE_M: Final = -7.0
_LEAD_IN_S: Final = 1.0
_LEAD_OUT_S: Final = 2.0
_WALKING: Final = 1.3


@dataclass(slots=True)
class Arrival:
    """One vehicle's way: where its front is at each step of `_STEP_S` from its entry on."""

    look: Look
    lane: int
    x: float
    stop_m: float
    stands_s: float
    enters_s: float
    in_pair: bool = False
    lookalike: bool = False
    parked: bool = False
    stops_s: float = math.inf
    starts_s: float = math.inf
    places: list[float] = field(default_factory=list)
    speed: float = _SPEED

    @property
    def z(self) -> float:
        """Where its front is now, or was at last."""
        return self.places[-1] if self.places else _ENTRY_M

    def z_at(self, film_s: float) -> float | None:
        """Where its front is at a moment; None while it is not there."""
        step = int((film_s - self.enters_s) / _STEP_S)
        return self.places[step] if film_s >= self.enters_s and step < len(self.places) else None

    @property
    def is_gone(self) -> bool:
        """It has passed the camera."""
        return self.z <= _GONE_M

    def drive(self, now_s: float, obstacle_m: float) -> None:
        """Move on by one step, braking for what is ahead: a vehicle, or its own place to stop."""
        goal = obstacle_m if self.starts_s <= now_s else max(obstacle_m, self.stop_m)
        left = max(0.0, self.z - goal)
        wanted = min(_SPEED, math.sqrt(2 * _BRAKING * left))
        faster = self.speed + _SETTING_OFF * _STEP_S
        self.speed = min(wanted, faster) if wanted > self.speed else max(wanted, self.speed - 2 * _BRAKING * _STEP_S)
        place = self.z - self.speed * _STEP_S
        self.places.append(goal if goal < self.z < goal + 0.01 else place)  # else it would creep for ever
        if self.stops_s == math.inf and self.z - self.stop_m < 0.03:
            self.stops_s, self.starts_s = now_s, now_s + self.stands_s


@dataclass(frozen=True, slots=True)
class Crossing:
    """A person on the way from one side to the other."""

    walker: Walker
    starts_s: float
    from_x: float
    to_x: float
    z: float

    def x_at(self, film_s: float) -> float | None:
        """Where the person is at a moment; None outside."""
        way = (film_s - self.starts_s) * _WALKING
        to_right = self.to_x > self.from_x
        return self.from_x + (way if to_right else -way) if 0 <= way <= abs(self.to_x - self.from_x) else None


@dataclass(frozen=True, slots=True)
class Script:
    """Everything that happens in one film, which begins and ends with an empty gate."""

    arrivals: tuple[Arrival, ...]
    crossings: tuple[Crossing, ...]
    duration_s: float


def write_script(
    camera: SceneCamera, rng: random.Random, *, vehicles: int, shortest_stop_s: float, longest_stop_s: float
) -> Script:
    """Write a film with so many vehicles in the standard mix of difficulties."""
    acts = _acts(camera, rng, vehicles, shortest_stop_s, longest_stop_s)
    parked = [act for act in acts if act[0].parked]
    waiting = [act for act in acts if not act[0].parked]
    rng.shuffle(waiting)
    waiting = _look_alike_never_first(waiting)
    arrivals: list[Arrival] = []
    if camera.has_bay:
        for number, (one,) in enumerate(parked):
            one.enters_s = _LEAD_IN_S + (number + rng.random()) * longest_stop_s * 1.2
            arrivals.append(one)
    else:
        waiting += parked
    now_s, next_s = _LEAD_IN_S, _LEAD_IN_S
    last: Arrival | None = None
    while waiting or not all(one.is_gone for one in arrivals):
        if waiting and now_s >= next_s and (last is None or now_s >= last.starts_s):
            act = waiting.pop(0)
            for one in act:
                one.enters_s += now_s
            if act[0].lookalike and last is not None:
                act[0].look = replace(last.look, plate=act[0].look.plate)
                act[0].lane, act[0].x, act[0].stop_m = last.lane, last.x, last.stop_m
            arrivals += act
            last, next_s = act[-1], math.inf
        _drive_all(arrivals, now_s)
        if last is not None and next_s == math.inf and last.starts_s < math.inf:
            next_s = last.starts_s + rng.uniform(-2.5, 1.5)
        now_s += _STEP_S
    duration_s = math.ceil(now_s + _LEAD_OUT_S)
    return Script(
        tuple(sorted(arrivals, key=lambda one: one.enters_s)), tuple(_walks(camera, rng, duration_s)), duration_s
    )


def _acts(
    camera: SceneCamera, rng: random.Random, vehicles: int, shortest_s: float, longest_s: float
) -> list[list[Arrival]]:
    """Split the vehicles into acts: some park, some come in pairs, some queue, some look like the one before."""

    def arrival(lane: int, enters_s: float = 0.0) -> Arrival:
        x = (-camera.lane_m, camera.lane_m, camera.bay_x)[lane] + rng.uniform(-0.12, 0.12)
        stop_m = (camera.bay_m if lane == BAY else camera.stop_m) + rng.uniform(0, 0.35)
        stands_s = shortest_s + rng.random() ** 2 * min(6.0, longest_s - shortest_s)
        return Arrival(Look.random(rng), lane, x, stop_m, stands_s, enters_s)

    def parked() -> list[Arrival]:
        """In the bay, or where there is none in one of the lanes."""
        one = arrival(BAY if camera.has_bay else RIGHT)
        look = replace(one.look, body=rng.choice([body for body in BODIES if body != "truck"]))
        return [replace(one, look=look, stands_s=longest_s, parked=True)]

    def pair() -> list[Arrival]:
        act = [arrival(LEFT), arrival(RIGHT, rng.uniform(0.0, 0.8))]
        return [replace(one, in_pair=True) for one in act]

    def queue() -> list[Arrival]:
        lane = rng.choice((LEFT, RIGHT))
        return [arrival(lane), arrival(lane, rng.uniform(1.0, 2.0))]

    def look_alike() -> list[Arrival]:
        return [replace(arrival(rng.choice((LEFT, RIGHT))), lookalike=True)]

    counts = {
        "parked": math.ceil(0.10 * vehicles),
        "queue": math.ceil(0.12 * vehicles),
        "pair": math.ceil(0.15 * vehicles / 2),
        "look_alike": math.ceil(0.12 * vehicles),
    }
    acts: list[list[Arrival]] = []
    left = vehicles
    for kind, count in counts.items():
        for _ in range(count):
            act = {"parked": parked, "queue": queue, "pair": pair, "look_alike": look_alike}[kind]()
            if len(act) <= left:
                acts.append(act)
                left -= len(act)
    return acts + [[arrival(rng.choice((LEFT, RIGHT)))] for _ in range(left)]


def _look_alike_never_first(acts: list[list[Arrival]]) -> list[list[Arrival]]:
    """A look-alike needs somebody before it."""
    if acts and acts[0][0].lookalike:
        other = next((number for number, act in enumerate(acts) if not act[0].lookalike), None)
        if other is not None:
            acts[0], acts[other] = acts[other], acts[0]
        else:
            acts[0][0].lookalike = False
    return acts


def _drive_all(arrivals: Sequence[Arrival], now_s: float) -> None:
    for one in arrivals:
        if one.enters_s > now_s or one.is_gone:
            continue
        ahead = [
            other.z + shape_of(other.look.body).length + _QUEUE_GAP_M
            for other in arrivals
            if other is not one and other.lane == one.lane and other.places and other.z < one.z and not other.is_gone
        ]
        one.drive(now_s, max(ahead, default=-math.inf))


def _walks(camera: SceneCamera, rng: random.Random, duration_s: float) -> Iterator[Crossing]:
    """Now and then somebody crosses, more often behind the vehicles than in front of them."""
    now_s = rng.uniform(2, 12)
    while now_s < duration_s - 12:
        z = rng.uniform(camera.stop_m + 8, 24) if rng.random() < 0.65 else rng.uniform(3.8, camera.stop_m - 0.7)
        ends = (-0.6 * z - 1, 0.6 * z + 1)
        from_x, to_x = ends if rng.random() < 0.5 else ends[::-1]
        yield Crossing(Walker.random(rng), now_s, from_x, to_x, z)
        now_s += rng.uniform(9, 28)
