"""Light that changes, a mast that sways, and pictures in which nothing moves."""

import random
import time
from functools import cache
from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detector_worker.simulator.scenes.geometry import PICTURE_WH, SceneCamera
from detector_worker.simulator.scenes.light import Light, LightName
from detector_worker.simulator.scenes.light_plan import LightPlan
from detector_worker.simulator.scenes.mast import MAST_REACH_PX, Mast
from detector_worker.simulator.scenes.people import Walker
from detector_worker.simulator.scenes.stage import Person, Stage, Vehicle
from detector_worker.simulator.scenes.vehicle_art import Look

CAMERA = SceneCamera(height_m=3.5, offset_m=-0.3, focal_px=1250, stop_m=7.0, lane_m=1.6)
CAR = Vehicle(Look("Aurex", "suv", "red", "AB123CD"), CAMERA.lane_m, 7.0)
DAY_S = (60.0, 300.0, 1800.0)
"""So long may the films be into which a day has to fit."""


@cache
def stage(name: LightName, *, light_changes: bool = False, mast: Mast | None = None) -> Stage:
    light = Light.make(name, random.Random(1))
    return Stage(CAMERA, light, seed=1, mast=mast, light_changes=light_changes)


def luma(of: Stage, vehicles: list[Vehicle], *, film_s: float = 0.0) -> NDArray[np.uint8]:
    return of.picture(vehicles, [], 1, film_s=film_s)[0][: PICTURE_WH[1]]


@pytest.mark.parametrize("duration_s", DAY_S)
@pytest.mark.parametrize("seed", range(4))
def test_a_day_has_sun_and_clouds_dusk_and_a_night_with_lamps_that_go_on_and_off(duration_s: float, seed: int) -> None:
    plan = LightPlan.passing_day(random.Random(seed), duration_s)
    times = [at for at, _ in plan.moments]
    assert times == sorted(times)
    assert 0.0 == times[0] < times[-1] <= duration_s
    names = [plan.name_at(at) for at in np.arange(0.0, duration_s, duration_s / 500)]
    changes = [name for name, before in zip(names, [None, *names], strict=False) if name != before]
    assert changes == ["day", "dusk", "night", "dusk", "day"]
    assert names.count("night") >= 0.2 * len(names)
    sudden = [(plan.lights[old], plan.lights[new]) for (a, old), (b, new) in pairwise(plan.moments) if a == b]
    assert sum(new.has_lamp for _, new in sudden) >= 2
    assert sum(old.has_lamp for old, _ in sudden) >= 2
    assert any(plan.lights[light].shadow < 0.25 and plan.lights[light].name == "day" for _, light in plan.moments)


def test_one_light_turns_into_another_little_by_little() -> None:
    day, dusk = (Light.make(name, random.Random(1)) for name in ("day", "dusk"))
    plan = LightPlan((day, dusk), ((0.0, 0), (10.0, 0), (20.0, 1)))
    assert plan.at(5.0) == (0, 0, 0.0)
    assert plan.at(12.5) == (0, 1, 0.25)
    assert plan.at(25.0) == (1, 1, 0.0)
    bright, dark = stage("day", light_changes=True), stage("dusk", light_changes=True)
    shares = [float(bright.picture([CAR], [], 1, turning=(dark, share))[0].mean()) for share in (0.01, 0.5, 0.99)]
    ends = [float(one.picture([CAR], [], 1)[0].mean()) for one in (bright, dark)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(ends[0], abs=1.5)
    assert shares[2] == pytest.approx(ends[1], abs=1.5)


def test_night_is_dark_and_rain_is_not_day() -> None:
    day, rain, night = (luma(stage(light), []).mean() for light in ("day", "rain", "night"))
    assert night < 0.9 * rain < 0.9 * day


def test_it_is_the_same_place_in_any_light() -> None:
    def edges(name: LightName, *, light_changes: bool) -> NDArray[np.bool_]:
        picture = luma(stage(name, light_changes=light_changes), [])
        return np.asarray(cv2.dilate(cv2.Canny(picture, 60, 140), np.ones((5, 5))) > 0)

    def alike(*, light_changes: bool) -> float:
        by_day, at_dusk = (edges(name, light_changes=light_changes) for name in ("day", "dusk"))
        return float((by_day & at_dusk).sum() / by_day.sum())

    assert alike(light_changes=True) > alike(light_changes=False) + 0.03


def test_who_has_its_lights_out_does_not_dazzle_at_night() -> None:
    at_night = stage("night")
    unlit = Vehicle(CAR.look, CAR.x, CAR.z, is_lit=False)
    assert luma(at_night, [CAR]).mean() > luma(at_night, [unlit]).mean() + 0.3


def test_what_does_not_move_is_the_same_picture_with_new_noise_and_costs_less() -> None:
    walker = Walker.random(random.Random(1))
    still = stage("day")
    people = [Person(walker, 0.2, 6.0, 0.0, to_left=False)]
    first, _ = still.picture([CAR], people, 1)
    again, seen = still.picture([CAR], people, 2)
    still.picture([], [], 3)
    anew, seen_anew = still.picture([CAR], people, 2)
    assert np.array_equal(again, anew)
    assert seen == seen_anew
    assert not np.array_equal(first, again)

    def cost_s(*, moves: bool) -> float:
        costs = []
        for number in range(22):
            place = 7.0 - (0.1 if moves and number % 2 else 0.0)  # two places, both drawn before
            started_s = time.process_time()
            still.picture([Vehicle(CAR.look, CAR.x, place)], people, number)
            costs.append(time.process_time() - started_s)
        return sorted(costs[2:])[9]

    assert cost_s(moves=False) < 0.7 * cost_s(moves=True)


def test_a_mast_sways_by_so_much_that_anybody_would_call_it_a_bad_mount() -> None:
    for seed in range(20):
        mast = Mast(seed)
        offsets = np.array([mast.offset(number / 5) for number in range(300)])
        assert np.abs(offsets).max() <= MAST_REACH_PX
        assert np.percentile(np.abs(offsets[:, 0]), 98) > 5
        assert offsets[:, 0].std() > 2.5
        assert offsets[:, 1].std() > 1.3
        steps = np.abs(np.diff(offsets, axis=0)).max(axis=1)
        assert steps.max() >= 8
    assert Mast(1).offset(3.0) == Mast(1).offset(3.0)
    assert any(Mast(1).offset(at) != Mast(2).offset(at) for at in (1.0, 2.0, 3.0))


def test_the_picture_moves_as_the_mast_does_and_the_truth_with_it() -> None:
    mast = Mast(3)
    swaying = stage("day", mast=mast)
    at_s = next(at for at in np.arange(0.0, 60.0, 0.1) if abs(mast.offset(at)[0]) >= 7)
    times = (0.0, float(at_s))
    first, second = (luma(swaying, [CAR], film_s=at).astype(np.float32) for at in times)
    shift, _ = cv2.phaseCorrelate(first, second, cv2.createHanningWindow(PICTURE_WH, cv2.CV_32F))
    wanted = np.subtract(mast.offset(times[0]), mast.offset(times[1]))
    assert shift == pytest.approx(tuple(wanted), abs=0.6)
    boxes = [swaying.picture([CAR], [], 1, film_s=at)[1][0].xyxy for at in times]
    assert np.subtract(boxes[1], boxes[0]) == pytest.approx([*wanted, *wanted], abs=0.01)
