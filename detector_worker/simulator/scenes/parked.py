"""Parked all day: one or two vehicles stand for nearly the whole film while others come and go."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from detector_worker.simulator.scenes.casting import Casting, crossings, group_before
from detector_worker.simulator.scenes.script import BAY, LEFT, RIGHT, Arrival, Crossing, Cue, Script, play

__all__ = ["write_parked"]

_QUEUE_GAP_M: Final = 2.4
_SECOND_FROM: Final = 5
"""With so many vehicles two may park."""
_LOOK_ALIKES: Final = 0.2
_COMES_AND_LEAVES_S: Final = 20.0
_BETWEEN_PEOPLE_S: Final = (20.0, 90.0)
_GROUP: Final = (2, 3, 3, 4)
_BETWEEN_GROUPS_S: Final = (40.0, 240.0)


def write_parked(casting: Casting) -> Script:
    """Write a film that lasts about as long as the longest stop; the others come at any moment of it."""
    rng = casting.rng
    places = [BAY if casting.camera.has_bay else RIGHT]
    if casting.camera.has_bay and casting.vehicles >= _SECOND_FROM and rng.random() < 0.5:
        places.append(RIGHT)
    parked = [replace(casting.parked(lane), lights_out=True) for lane in places]
    cues = [Cue(one, not_before_s=number * rng.uniform(3, 8)) for number, one in enumerate(parked)]
    free = [lane for lane in (LEFT, RIGHT) if lane not in places]
    cues += _passers(casting, casting.vehicles - len(parked), free)
    arrivals, duration_s = play(cues, queue_gap_m=_QUEUE_GAP_M)
    people = (*crossings(casting.camera, rng, duration_s, _BETWEEN_PEOPLE_S), *_groups(casting, parked))
    return Script(arrivals, people, duration_s, _QUEUE_GAP_M)


def _passers(casting: Casting, count: int, lanes: list[int]) -> Iterator[Cue]:
    """Spread those who come and go over the time for which the others park."""
    rng = casting.rng
    span_s = max(0.0, casting.longest_stop_s - 2 * _COMES_AND_LEAVES_S)
    last: dict[int, Arrival] = {}
    for number in range(count):
        one = casting.arrival(rng.choice(lanes))
        before = last.get(one.lane)
        if before is not None and rng.random() < _LOOK_ALIKES:
            one = replace(one, look=replace(before.look, plate=one.look.plate), lookalike=True)
        last[one.lane] = one
        yield Cue(one, not_before_s=_COMES_AND_LEAVES_S + (number + rng.random()) / count * span_s)


def _groups(casting: Casting, parked: list[Arrival]) -> Iterator[Crossing]:
    """Now and then people stop and talk before a parked vehicle."""
    rng = casting.rng
    for one in parked:
        now_s = one.stops_s + rng.uniform(10, 60)
        while now_s < one.starts_s - 50:
            stay_s = rng.uniform(3, 25)
            yield from group_before(casting, one, _GROUP, now_s, stay_s)
            now_s += stay_s + rng.uniform(*_BETWEEN_GROUPS_S)
