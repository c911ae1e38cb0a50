"""The kinds of scenes: each script has as many vehicles as ordered, and is difficult in its own way."""

import random
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from detector_worker.simulator.scenes.casting import Casting
from detector_worker.simulator.scenes.geometry import SceneCamera
from detector_worker.simulator.scenes.kinds import SCENE_KINDS, SceneKind, light_of, stop_distances_m, write_script
from detector_worker.simulator.scenes.script import BAY, Arrival, Script

SEEDS = range(5)
WRITTEN: tuple[SceneKind, ...] = ("mix", "crowded", "parked", "occlusion")
"""The kinds that have a script of their own."""
MIX_OF_SEED_7 = (77, ["BH082LR", "ND819BX", "BC661HC", "XT971CK", "NL323CW", "FM276BZ"])
"""As it was when there was no other kind."""


def write(kind: SceneKind, seed: int, *, vehicles: int = 12, longest_stop_s: float = 60.0) -> Script:
    rng = random.Random(seed)
    distances = stop_distances_m(kind)
    camera = SceneCamera.random(rng, stop_m=distances[seed % len(distances)])
    return write_script(kind, Casting(camera, rng, vehicles, 4.0, longest_stop_s))


script = cache(write)


def gaps_s(written: Script) -> list[float]:
    """From each stop, but the first, back to when somebody else stopped or drove on."""
    moments = sorted((moment, one.look.plate) for one in written.arrivals for moment in (one.stops_s, one.starts_s))
    return [
        one.stops_s - max(before)
        for one in written.arrivals
        if (before := [moment for moment, plate in moments if moment <= one.stops_s and plate != one.look.plate])
    ]


def there(one: Arrival, film_s: float) -> bool:
    return one.z_at(film_s) is not None


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("seed", SEEDS)
def test_as_many_as_ordered_come_stop_and_leave_and_nobody_drives_through_anybody(kind: SceneKind, seed: int) -> None:
    written = script(kind, seed, vehicles=9 + seed)
    assert len(written.arrivals) == 9 + seed
    assert all(one.is_gone and one.starts_s - one.stops_s >= 4.0 for one in written.arrivals)
    assert not any(there(one, 0.5) or there(one, written.duration_s - 1.0) for one in written.arrivals)
    for now in np.arange(0.0, written.duration_s, 0.5):
        for lane in range(3):
            places = sorted(z for one in written.arrivals if one.lane == lane and (z := one.z_at(now)) is not None)
            assert all(further - nearer > 3.7 for nearer, further in pairwise(places))


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_same_order_gives_the_same_script_and_another_one_another(kind: SceneKind) -> None:
    assert write(kind, 3, vehicles=6) == write(kind, 3, vehicles=6)
    assert write(kind, 3, vehicles=6) != write(kind, 4, vehicles=6)


def test_night_rain_and_shake_are_the_mix() -> None:
    others = set(SCENE_KINDS) - set(WRITTEN)
    assert others == {"night", "rain", "shake"}
    mix = write("mix", 3, vehicles=6)
    assert all(write(kind, 3, vehicles=6) == mix for kind in others)


def test_the_standard_mix_stays_what_it_was() -> None:
    written = script("mix", 7, vehicles=6)
    assert (written.duration_s, [one.look.plate for one in written.arrivals]) == MIX_OF_SEED_7


def test_night_and_rain_are_the_light_of_every_camera_and_the_others_take_turns() -> None:
    assert {light_of("night", camera) for camera in range(1, 11)} == {"night"}
    assert {light_of("rain", camera) for camera in range(1, 11)} == {"rain"}
    assert {light_of("crowded", camera) for camera in range(1, 11)} == {"day", "dusk", "night", "rain"}


def test_a_crowded_gate_is_never_free_and_the_next_one_is_close_behind() -> None:
    gaps = [gap for seed in range(6) for gap in gaps_s(script("crowded", seed, vehicles=12))]
    assert np.mean(gaps) < 2.0
    assert max(gaps) < 5.0
    assert np.mean(gaps) < 0.6 * np.mean([gap for seed in range(3) for gap in gaps_s(script("mix", seed))])


@pytest.mark.parametrize("seed", SEEDS)
def test_both_lanes_of_a_crowded_gate_queue_bumper_to_bumper_with_look_alikes_and_people_between(seed: int) -> None:
    written = script("crowded", seed, vehicles=20)
    while_it_lasts = np.arange(8.0, max(one.enters_s for one in written.arrivals), 0.5)
    for lane in (0, 1):
        present = [sum(there(one, now) for one in written.arrivals if one.lane == lane) for now in while_it_lasts]
        assert min(present) >= 3
    assert sum(one.lookalike for one in written.arrivals) >= 2
    for one in written.arrivals:
        if one.lookalike:
            before = [other for other in written.arrivals if other.lane == one.lane and other.enters_s < one.enters_s]
            mine, theirs = one.look, before[-1].look
            assert (mine.brand, mine.body, mine.colour) == (theirs.brand, theirs.body, theirs.colour)
            assert mine.plate != theirs.plate
    assert sum(abs(one.from_z - one.to_z) > 30 for one in written.crossings) >= 3
    for one in written.arrivals:
        others = [abs(other.stops_s - one.stops_s) for other in written.arrivals if other is not one]
        assert one.in_pair == (min(others) <= 1.0)


@pytest.mark.parametrize(("seed", "longest_stop_s"), [*((seed, 240.0) for seed in SEEDS), (1, 900.0), (2, 900.0)])
def test_who_parks_all_day_stands_while_all_others_come_and_go(seed: int, longest_stop_s: float) -> None:
    written = script("parked", seed, vehicles=8, longest_stop_s=longest_stop_s)
    parked = [one for one in written.arrivals if one.parked]
    assert len(parked) in {1, 2}
    for one in parked:
        assert one.starts_s - one.stops_s == pytest.approx(longest_stop_s)
        assert longest_stop_s > 0.88 * written.duration_s
        others = [other for other in written.arrivals if not other.parked]
        assert all(other.lane != one.lane for other in others)
        assert all(one.stops_s < other.stops_s and other.starts_s < one.starts_s for other in others)
        assert one.is_lit_at(one.stops_s - 1)
        assert not one.is_lit_at((one.stops_s + one.starts_s) / 2)


def test_two_park_at_once_in_some_films_and_one_in_others() -> None:
    counts = {
        sum(one.parked for one in script("parked", seed, vehicles=6, longest_stop_s=90).arrivals) for seed in range(8)
    }
    assert counts == {1, 2}


@pytest.mark.parametrize("seed", SEEDS)
def test_big_ones_are_held_up_right_before_who_stands_at_the_gate(seed: int) -> None:
    written = script("occlusion", seed, vehicles=16)
    held_up = [one for one in written.arrivals if one.halt_s > 0]
    assert len(held_up) >= 4
    for big in held_up:
        assert big.look.body in {"truck", "van"}
        assert 2.0 <= big.halt_s <= 30.0
        behind = next(other for other in written.arrivals if other.lane == big.lane and other.enters_s > big.enters_s)
        places = [big.z_at(big.goes_on_s - share * big.halt_s) for share in (0.9, 0.5, 0.1)]
        assert places == pytest.approx([big.halt_m] * 3, abs=0.05)
        both_stand_s = big.goes_on_s - max(behind.stops_s, big.goes_on_s - big.halt_s)
        assert both_stand_s > 0.5 * big.halt_s - 1
        assert behind.starts_s - big.goes_on_s > 5.0


@pytest.mark.parametrize("seed", SEEDS)
def test_people_stop_before_who_stands_and_go_before_it_drives_on(seed: int) -> None:
    written = script("occlusion", seed, vehicles=16)
    talking = [one for one in written.crossings if one.halt_s > 0]
    assert len(talking) >= 5
    for one in talking:
        since_s, until_s = one.starts_s + one.halts_after_s, one.starts_s + one.halts_after_s + one.halt_s
        place = one.place_at((since_s + until_s) / 2)
        assert place is not None
        assert place == pytest.approx(one.place_at(since_s + 0.01), abs=0.02)
        before = [
            car
            for car in written.arrivals
            if abs(car.x - place[0]) < 1.2 and car.stops_s < since_s and until_s < car.starts_s
        ]
        assert any(0.5 < car.stop_m - place[1] < 1.6 for car in before)


def test_bays_are_used_where_there_are_any() -> None:
    assert any(one.lane == BAY for seed in SEEDS for one in script("occlusion", seed).arrivals)
