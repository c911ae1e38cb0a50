"""Who stands is covered: by a truck or a van that is held up just ahead, or by people who stop and talk."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Final

from detector_worker.simulator.scenes.bodies import shape_of
from detector_worker.simulator.scenes.casting import Casting, crossings, group_before
from detector_worker.simulator.scenes.script import BAY, LEFT, RIGHT, Arrival, Crossing, Cue, Script, play

__all__ = ["write_occlusion"]

_QUEUE_GAP_M: Final = 1.3
_IN_THE_BAY: Final = 1 / 8
_IN_CONVOYS: Final = 0.8
"""Share of the vehicles that come as big ones and one behind them."""
_CONVOY: Final = (2, 3, 3, 4)
_BIG: Final = ("truck", "van")
_SMALL: Final = ("hatchback", "sedan", "suv", "pickup")
_COVERED_S: Final = (2.0, 30.0)
_GROUP: Final = (5, 6, 7, 8)
_GROUP_S: Final = (2.5, 20.0)
_CLEAR_S: Final = (5.0, 9.0)
"""How long who was covered stands in full view afterwards."""
_DRIVES_OFF_S: Final = 3.0
_BETWEEN_PEOPLE_S: Final = (12.0, 40.0)


def write_occlusion(casting: Casting) -> Script:
    """Write a film in which most of those who stand are hidden for a while, and in full view for a while."""
    rng = casting.rng
    parked = [casting.parked(BAY) for _ in range(round(casting.vehicles * _IN_THE_BAY) * casting.camera.has_bay)]
    left = casting.vehicles - len(parked)
    convoys = _convoys(casting, round(left * _IN_CONVOYS))
    singles = [_before_people(casting) for _ in range(left - sum(map(len, convoys)))]
    acts = convoys + [[one] for one in singles]
    rng.shuffle(acts)
    cues = [Cue(one, after_start_s=rng.uniform(1.0, 5.0)) for one in parked]
    for first, *behind in acts:
        cues.append(Cue(first, after_start_s=rng.uniform(0.0, 2.0)))
        cues += map(Cue, behind)
    arrivals, duration_s = play(cues, queue_gap_m=_QUEUE_GAP_M)
    people = (
        *crossings(casting.camera, rng, duration_s, _BETWEEN_PEOPLE_S),
        *(person for one in (*singles, *parked) for person in _people(casting, one)),
    )
    return Script(arrivals, people, duration_s, _QUEUE_GAP_M)


def _convoys(casting: Casting, vehicles: int) -> list[list[Arrival]]:
    """Split so many vehicles, or one fewer, into convoys."""
    convoys: list[list[Arrival]] = []
    while vehicles >= min(_CONVOY):
        convoys.append(_convoy(casting, min(vehicles, casting.rng.choice(_CONVOY))))
        vehicles -= len(convoys[-1])
    return convoys


def _convoy(casting: Casting, count: int) -> list[Arrival]:
    """Each big one is held up after the gate, so that who comes to the gate next stands right behind it."""
    rng, lane = casting.rng, casting.rng.choice((LEFT, RIGHT))
    convoy = [casting.arrival(lane) for _ in range(count)]
    bodies = ["truck", *(rng.choice(_BIG) for _ in range(count - 2))] if count > 2 else [rng.choice(_BIG)]
    for one, body in zip(convoy, [*bodies, rng.choice(_SMALL)], strict=True):
        one.look = replace(one.look, body=body)
    shortest_s, longest_s = _COVERED_S
    for big, behind in pairwise(convoy):
        big.halt_s = shortest_s + (longest_s - shortest_s) * rng.random() ** 2
        big.halt_m = behind.stop_m - shape_of(big.look.body).length - _QUEUE_GAP_M - 0.05
        behind.stands_s = big.halt_s + _DRIVES_OFF_S + rng.uniform(*_CLEAR_S)
    return convoy


def _before_people(casting: Casting) -> Arrival:
    rng = casting.rng
    one = casting.arrival(rng.choice((LEFT, RIGHT)))
    return replace(
        one, look=replace(one.look, body=rng.choice(_SMALL)), stands_s=rng.uniform(*_GROUP_S) + 2 * _CLEAR_S[0]
    )


def _people(casting: Casting, one: Arrival) -> Iterator[Crossing]:
    """They come after it has stopped, and go before it drives on."""
    stay_s = min(_GROUP_S[1], one.starts_s - one.stops_s - 2 * _CLEAR_S[0])
    if stay_s >= _GROUP_S[0]:
        yield from group_before(casting, one, _GROUP, one.stops_s + _CLEAR_S[0], stay_s)
