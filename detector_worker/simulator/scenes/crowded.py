"""A crowded gate: both lanes queue bumper to bumper all the time, look-alikes among them, and people walk between."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from detector_worker.simulator.scenes.casting import Casting, crossings
from detector_worker.simulator.scenes.people import Walker
from detector_worker.simulator.scenes.script import LEFT, RIGHT, Arrival, Crossing, Cue, Script, play

__all__ = ["write_crowded"]

_QUEUE_GAP_M: Final = 1.3
_LONGER_S: Final = 1.5
_LOOK_ALIKES: Final = 0.3
_BETWEEN_PEOPLE_S: Final = (6.0, 14.0)
_BETWEEN_WALKERS_S: Final = (5.0, 15.0)


def write_crowded(casting: Casting) -> Script:
    """Write a film in which everybody drives up as soon as there is room."""
    rng = casting.rng
    lanes = [(LEFT, RIGHT)[number % 2] for number in range(casting.vehicles)]
    rng.shuffle(lanes)
    last: dict[int, Arrival] = {}
    cues: list[Cue] = []
    for lane in lanes:
        one = _next_one(casting, lane, last.get(lane))
        last[lane] = one
        cues.append(Cue(one))
    arrivals, duration_s = play(cues, queue_gap_m=_QUEUE_GAP_M)
    people = (
        *crossings(casting.camera, rng, duration_s, _BETWEEN_PEOPLE_S),
        *_between_the_lanes(rng, duration_s),
    )
    return Script(arrivals, people, duration_s, _QUEUE_GAP_M)


def _next_one(casting: Casting, lane: int, before: Arrival | None) -> Arrival:
    one, rng = casting.arrival(lane), casting.rng
    longer_s = min(_LONGER_S, casting.longest_stop_s - casting.shortest_stop_s)
    one.stands_s = casting.shortest_stop_s + rng.random() * longer_s
    if before is None or rng.random() >= _LOOK_ALIKES:
        return one
    return replace(one, look=replace(before.look, plate=one.look.plate), lookalike=True)


def _between_the_lanes(rng: random.Random, duration_s: float) -> Iterator[Crossing]:
    """Between the two queues, towards the camera or away from it."""
    now_s = rng.uniform(2, 8)
    while now_s < duration_s - 30:
        ends = (38.0, 2.2)
        from_z, to_z = ends if rng.random() < 0.6 else ends[::-1]
        yield Crossing(Walker.random(rng), now_s, rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2), from_z, to_z)
        now_s += rng.uniform(*_BETWEEN_WALKERS_S)
