"""The standard mix of difficulties: pairs, queues, look-alike successors, parked vehicles, people who cross."""

import math
from dataclasses import replace
from typing import Final

from detector_worker.simulator.scenes.casting import Casting, crossings
from detector_worker.simulator.scenes.script import (
    BAY,
    LEAD_IN_S,
    LEAD_OUT_S,
    LEFT,
    RIGHT,
    STEP_S,
    Arrival,
    Script,
    drive_all,
)

__all__ = ["write_mix"]

_QUEUE_GAP_M: Final = 2.4
_BETWEEN_PEOPLE_S: Final = (9.0, 28.0)


def write_mix(casting: Casting) -> Script:
    """Write a film in which each act begins when the one before it ends."""
    camera, rng = casting.camera, casting.rng
    acts = _acts(casting)
    parked = [act for act in acts if act[0].parked]
    waiting = [act for act in acts if not act[0].parked]
    rng.shuffle(waiting)
    waiting = _look_alike_never_first(waiting)
    arrivals: list[Arrival] = []
    if camera.has_bay:
        for number, (one,) in enumerate(parked):
            one.enters_s = LEAD_IN_S + (number + rng.random()) * casting.longest_stop_s * 1.2
            arrivals.append(one)
    else:
        waiting += parked
    now_s, next_s = LEAD_IN_S, LEAD_IN_S
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
        drive_all(arrivals, now_s, queue_gap_m=_QUEUE_GAP_M)
        if last is not None and next_s == math.inf and last.starts_s < math.inf:
            next_s = last.starts_s + rng.uniform(-2.5, 1.5)
        now_s += STEP_S
    duration_s = math.ceil(now_s + LEAD_OUT_S)
    people = tuple(crossings(camera, rng, duration_s, _BETWEEN_PEOPLE_S))
    return Script(tuple(sorted(arrivals, key=lambda one: one.enters_s)), people, duration_s, _QUEUE_GAP_M)


def _acts(casting: Casting) -> list[list[Arrival]]:
    """Split the vehicles into acts: some park, some come in pairs, some queue, some look like the one before."""
    rng, arrival = casting.rng, casting.arrival

    def parked() -> list[Arrival]:
        """In the bay, or where there is none in one of the lanes."""
        return [casting.parked(BAY if casting.camera.has_bay else RIGHT)]

    def pair() -> list[Arrival]:
        act = [arrival(LEFT), arrival(RIGHT, rng.uniform(0.0, 0.8))]
        return [replace(one, in_pair=True) for one in act]

    def queue() -> list[Arrival]:
        lane = rng.choice((LEFT, RIGHT))
        return [arrival(lane), arrival(lane, rng.uniform(1.0, 2.0))]

    def look_alike() -> list[Arrival]:
        return [replace(arrival(rng.choice((LEFT, RIGHT))), lookalike=True)]

    counts = {
        "parked": math.ceil(0.10 * casting.vehicles),
        "queue": math.ceil(0.12 * casting.vehicles),
        "pair": math.ceil(0.15 * casting.vehicles / 2),
        "look_alike": math.ceil(0.12 * casting.vehicles),
    }
    acts: list[list[Arrival]] = []
    left = casting.vehicles
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
