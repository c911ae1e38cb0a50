"""What happens in a film: who is where at every moment. How vehicles drive, and how people walk."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from detector_worker.simulator.scenes.bodies import shape_of
from detector_worker.simulator.scenes.people import Walker
from detector_worker.simulator.scenes.vehicle_art import Look

__all__ = [
    "BAY",
    "LEAD_IN_S",
    "LEAD_OUT_S",
    "LEFT",
    "RIGHT",
    "STEP_S",
    "WALKING",
    "Arrival",
    "Crossing",
    "Cue",
    "Script",
    "drive_all",
    "play",
]

LEFT, RIGHT, BAY = range(3)
STEP_S: Final = 0.02
LEAD_IN_S: Final = 1.0
LEAD_OUT_S: Final = 2.0
_ENTRY_M: Final = 39.0
_ROOM_M: Final = 1.0
"""Between who enters and the place where it would have to stop behind the one before it, at least."""
_SPEED: Final = 9.0
_BRAKING: Final = 2.3
_SETTING_OFF: Final = 1.9
_GONE_M: Final = -7.0
WALKING: Final = 1.3
"""Metres a second."""
_AT_ONCE_S: Final = 1.0
_LIGHTS_S: Final = 4.0
"""So long after stopping who parks puts its lights out; half of it before it drives on they are on again."""


@dataclass(slots=True)
class Arrival:
    """One vehicle's way: where its front is at each step of `STEP_S` from its entry on."""

    look: Look
    lane: int
    x: float
    stop_m: float
    stands_s: float
    enters_s: float
    in_pair: bool = False
    lookalike: bool = False
    parked: bool = False
    lights_out: bool = False
    """Whether it stands without lights."""
    halt_m: float = -math.inf
    """Where it has to stop once more after it has driven on; -inf: nowhere."""
    halt_s: float = 0.0
    stops_s: float = math.inf
    starts_s: float = math.inf
    goes_on_s: float = math.inf
    """After its halt."""
    places: list[float] = field(default_factory=list)
    speed: float = _SPEED

    @property
    def z(self) -> float:
        """Where its front is now, or was at last."""
        return self.places[-1] if self.places else _ENTRY_M

    def z_at(self, film_s: float) -> float | None:
        """Where its front is at a moment; None while it is not there."""
        step = int((film_s - self.enters_s) / STEP_S)
        return self.places[step] if film_s >= self.enters_s and step < len(self.places) else None

    def is_lit_at(self, film_s: float) -> bool:
        """Whether its lights are on, where others' are."""
        return not (self.lights_out and self.stops_s + _LIGHTS_S <= film_s < self.starts_s - _LIGHTS_S / 2)

    @property
    def is_gone(self) -> bool:
        """It has passed the camera."""
        return self.z <= _GONE_M

    def enter(self, now_s: float, room_m: float) -> None:
        """Come into sight with so much room before it, no faster than it could brake."""
        self.enters_s, self.speed = now_s, min(_SPEED, math.sqrt(2 * _BRAKING * room_m))

    def drive(self, now_s: float, obstacle_m: float) -> None:
        """Move on by one step, braking for what is ahead: a vehicle, or its own place to stop."""
        goal = obstacle_m if self.starts_s <= now_s else max(obstacle_m, self.stop_m)
        if now_s < self.goes_on_s:
            goal = max(goal, self.halt_m)
        left = max(0.0, self.z - goal)
        wanted = min(_SPEED, math.sqrt(2 * _BRAKING * left))
        faster = self.speed + _SETTING_OFF * STEP_S
        self.speed = min(wanted, faster) if wanted > self.speed else max(wanted, self.speed - 2 * _BRAKING * STEP_S)
        place = self.z - self.speed * STEP_S
        self.places.append(goal if goal < self.z < goal + 0.01 else place)  # else it would creep for ever
        if self.stops_s == math.inf and self.z - self.stop_m < 0.03:
            self.stops_s, self.starts_s = now_s, now_s + self.stands_s
        if self.goes_on_s == math.inf and self.z - self.halt_m < 0.03:
            self.goes_on_s = now_s + self.halt_s


@dataclass(frozen=True, slots=True)
class Crossing:
    """A person on a straight way, perhaps with a stop."""

    walker: Walker
    starts_s: float
    from_x: float
    to_x: float
    from_z: float
    to_z: float
    halts_after_s: float = math.inf
    halt_s: float = 0.0

    @property
    def to_left(self) -> bool:
        """Which way the person looks."""
        return self.to_x < self.from_x

    def walked_s(self, film_s: float) -> float:
        """How long the person has been on the move."""
        since = film_s - self.starts_s
        return since if since < self.halts_after_s else max(self.halts_after_s, since - self.halt_s)

    def place_at(self, film_s: float) -> tuple[float, float] | None:
        """Where the person is at a moment, x and z; None before and after."""
        across, along = self.to_x - self.from_x, self.to_z - self.from_z
        share = self.walked_s(film_s) * WALKING / math.hypot(across, along)
        return (self.from_x + across * share, self.from_z + along * share) if 0 <= share <= 1 else None


@dataclass(frozen=True, slots=True)
class Script:
    """Everything that happens in one film, which begins and ends with an empty gate."""

    arrivals: tuple[Arrival, ...]
    crossings: tuple[Crossing, ...]
    duration_s: float
    queue_gap_m: float
    """Between two who queue."""


@dataclass(frozen=True, slots=True)
class Cue:
    """When a vehicle comes: as soon as there is room behind the one before it in its lane, or later."""

    arrival: Arrival
    not_before_s: float = 0.0
    after_start_s: float | None = None
    """So long after the one before it has driven on; None: it need not have."""

    def is_due(self, now_s: float, before: Arrival | None) -> bool:
        """Whether it is time."""
        if self.after_start_s is not None and before is not None and now_s < before.starts_s + self.after_start_s:
            return False
        return now_s >= self.not_before_s


def play(cues: Iterable[Cue], *, queue_gap_m: float) -> tuple[tuple[Arrival, ...], int]:
    """Let vehicles come in the order of each lane's cues; return them in the order of entry, and the film's seconds."""
    waiting: dict[int, list[Cue]] = {}
    for cue in cues:
        waiting.setdefault(cue.arrival.lane, []).append(cue)
    last: dict[int, Arrival] = {}
    present: list[Arrival] = []
    arrivals: list[Arrival] = []
    now_s = LEAD_IN_S
    while present or any(waiting.values()):
        for lane, queue in waiting.items():
            if queue and queue[0].is_due(now_s, before := last.get(lane)):
                room_m = math.inf if before is None else _ENTRY_M - _rear_m(before) - queue_gap_m
                if room_m >= _ROOM_M:
                    last[lane] = queue.pop(0).arrival
                    last[lane].enter(now_s, room_m)
                    present.append(last[lane])
                    arrivals.append(last[lane])
        drive_all(present, now_s, queue_gap_m=queue_gap_m)
        present = [one for one in present if not one.is_gone]
        now_s += STEP_S
    for one in arrivals:
        one.in_pair = any(other is not one and abs(other.stops_s - one.stops_s) <= _AT_ONCE_S for other in arrivals)
    return tuple(arrivals), math.ceil(now_s + LEAD_OUT_S)


def drive_all(arrivals: Sequence[Arrival], now_s: float, *, queue_gap_m: float) -> None:
    """Move all who are there on by one step, behind each other."""
    for one in arrivals:
        if one.enters_s > now_s or one.is_gone:
            continue
        ahead = [
            _rear_m(other) + queue_gap_m
            for other in arrivals
            if other is not one and other.lane == one.lane and other.places and other.z < one.z and not other.is_gone
        ]
        one.drive(now_s, max(ahead, default=-math.inf))


def _rear_m(one: Arrival) -> float:
    return one.z + shape_of(one.look.body).length
