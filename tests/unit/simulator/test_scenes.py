"""Scenes: deterministic, as difficult as they claim, and their truth is where the pictures show it."""

import random
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from detector_worker.simulator.scenes.bodies import BODIES, body_mesh
from detector_worker.simulator.scenes.brands import BRANDS, fascia
from detector_worker.simulator.scenes.casting import Casting
from detector_worker.simulator.scenes.geometry import PICTURE_WH, SceneCamera
from detector_worker.simulator.scenes.kinds import write_script
from detector_worker.simulator.scenes.light import LIGHTS, Light
from detector_worker.simulator.scenes.plates import ALPHABET, PLATE_LENGTH, plate_image, random_plate
from detector_worker.simulator.scenes.record import ignore_masks
from detector_worker.simulator.scenes.script import Script
from detector_worker.simulator.scenes.stage import SeenObject, Stage, Vehicle
from detector_worker.simulator.scenes.stills import still
from detector_worker.simulator.scenes.truth import Box
from detector_worker.simulator.scenes.vehicle_art import Look, vehicle_box

CAMERA = SceneCamera(height_m=3.5, offset_m=-0.3, focal_px=1250, stop_m=7.0, lane_m=1.6)
LOOK = Look("Aurex", "suv", "red", "AB123CD")


@cache
def stage() -> Stage:
    return Stage(CAMERA, Light.make("day", random.Random(1)), seed=1)


def script(seed: int, vehicles: int = 12, longest_stop_s: float = 60.0) -> Script:
    rng = random.Random(seed)
    return write_script("mix", Casting(SceneCamera.random(rng), rng, vehicles, 4.0, longest_stop_s))


def of(kind: str, seen: list[SeenObject]) -> SeenObject:
    return next(one for one in seen if one.kind == kind)


def inside(inner: Box, outer: Box) -> bool:
    return (
        inner[0] >= outer[0] - 1 and inner[1] >= outer[1] - 1 and inner[2] <= outer[2] + 1 and inner[3] <= outer[3] + 1
    )


def test_there_are_brands_bodies_and_plates_enough_and_no_two_look_alike() -> None:
    assert len(BRANDS) >= 8
    assert len(BODIES) >= 5
    faces = {fascia(brand).tobytes() for brand in BRANDS}
    shapes = {body_mesh(body).corners.tobytes() for body in BODIES}
    assert (len(faces), len(shapes)) == (len(BRANDS), len(BODIES))
    plates = [random_plate(random.Random(seed)) for seed in range(50)]
    assert all(len(plate) == PLATE_LENGTH and set(plate) <= set(ALPHABET) for plate in plates)
    assert len({plate_image(plate).tobytes() for plate in plates}) == len(set(plates))


def test_the_same_seed_gives_the_same_picture_and_another_one_another() -> None:
    first, seen = still(4_001)
    again, seen_again = still(4_001)
    other, _ = still(4_002)
    assert np.array_equal(first, again)
    assert seen == seen_again
    assert not np.array_equal(first, other)


def test_a_vehicle_is_where_the_truth_says() -> None:
    empty, _ = stage().picture([], [], 1)
    picture, seen = stage().picture([Vehicle(LOOK, CAMERA.lane_m, 7.0)], [], 1)
    x1, y1, x2, y2 = (int(side) for side in of("vehicle", seen).xyxy)
    changed = np.abs(picture[: PICTURE_WH[1]].astype(int) - empty[: PICTURE_WH[1]]) > 25
    assert changed[y1:y2, x1:x2].mean() > 0.5
    changed[y1 - 3 : y2 + 60, x1 - 350 : x2 + 350] = False  # itself and its shadow
    assert changed.mean() < 0.001
    assert inside(of("plate", seen).xyxy, of("frontal", seen).xyxy)
    assert inside(of("frontal", seen).xyxy, of("vehicle", seen).xyxy)
    assert of("vehicle", seen).visible > 0.97


def test_what_stands_behind_is_seen_to_be_hidden() -> None:
    front, behind = Vehicle(LOOK, CAMERA.lane_m, 7.0), Vehicle(LOOK, CAMERA.lane_m, 14.0)
    _, seen = stage().picture([behind, front], [], 1)
    hidden = next(one for one in seen if one.kind == "vehicle" and one.vehicle == 0)
    plate = next(one for one in seen if one.kind == "plate" and one.vehicle == 0)
    assert 0.35 < hidden.covered < 0.9
    assert plate.visible < 0.1
    assert next(one for one in seen if one.kind == "vehicle" and one.vehicle == 1).covered < 0.03


@pytest.mark.parametrize("seed", range(4))
def test_the_standard_mix_is_as_difficult_as_it_claims(seed: int) -> None:
    written = script(seed, vehicles=24)
    share = Counter[str]()
    for one in written.arrivals:
        share.update({"pair": one.in_pair, "look-alike": one.lookalike, "parked": one.parked})
    assert len(written.arrivals) == 24
    assert share["pair"] >= 0.15 * 24
    assert share["look-alike"] >= 0.10 * 24
    assert share["parked"] >= 0.10 * 24
    queued = sum(later.stops_s - later.enters_s > 8 for later in written.arrivals if not later.parked)
    assert queued >= 0.10 * 24
    lights = Counter(LIGHTS)
    assert lights["night"] >= 0.2 * len(LIGHTS)
    assert lights["rain"] >= 0.1 * len(LIGHTS)


@pytest.mark.parametrize("seed", range(15))
def test_what_parks_is_in_the_picture(seed: int) -> None:
    rng = random.Random(seed)
    camera = SceneCamera.random(rng)
    written = write_script("mix", Casting(camera, rng, 6, 4.0, 30.0))
    (parked,) = (one for one in written.arrivals if one.parked)
    x1, y1, x2, y2 = vehicle_box(camera, parked.look.body, parked.x, parked.stop_m)
    width, height = min(x2, PICTURE_WH[0]) - max(x1, 0), min(y2, PICTURE_WH[1]) - max(y1, 0)
    assert width * height > 0.8 * (x2 - x1) * (y2 - y1)


def test_parking_is_bounded_by_what_was_ordered() -> None:
    stays = [one.starts_s - one.stops_s for one in script(5, 6, longest_stop_s=700).arrivals if one.parked]
    assert min(stays) > 600
    assert max(one.starts_s - one.stops_s for one in script(5, 6, longest_stop_s=30).arrivals) < 30.5


@pytest.mark.parametrize("seed", range(6))
def test_a_look_alike_follows_its_like_and_nobody_drives_through_anybody(seed: int) -> None:
    written = script(seed)
    for one in written.arrivals:
        if one.lookalike:
            before = [other for other in written.arrivals if other.lane == one.lane and other.enters_s < one.enters_s][
                -1
            ]
            assert (before.look.brand, before.look.body, before.look.colour) == (
                one.look.brand,
                one.look.body,
                one.look.colour,
            )
            assert before.look.plate != one.look.plate
    for now in np.arange(0.0, written.duration_s, 0.5):
        for lane in range(3):
            places = sorted(z for one in written.arrivals if one.lane == lane and (z := one.z_at(now)) is not None)
            assert all(further - nearer > 3.0 for nearer, further in pairwise(places))


@pytest.mark.parametrize("seed", range(40))
def test_the_masks_leave_who_stands_at_the_gate_and_hide_who_waits(seed: int) -> None:
    camera = SceneCamera.random(random.Random(seed))
    (mask,) = ignore_masks(camera, queue_gap_m=2.4)

    def masked(body: str, x: float, z: float) -> bool:
        x1, y1, x2, y2 = vehicle_box(camera, body, x, z)
        middle_x = (max(0, x1) + min(PICTURE_WH[0], x2)) / 2
        middle_y = (max(0, y1) + min(PICTURE_WH[1], y2)) / 2
        return mask[0] <= middle_x < mask[2] and mask[1] <= middle_y < mask[3]

    for body in BODIES:
        for x in (-camera.lane_m, camera.lane_m):
            assert not masked(body, x, camera.stop_m + 0.35)
            assert masked(body, x, camera.stop_m + 6.2)
        if body != "truck" and camera.has_bay:
            assert not masked(body, camera.bay_x, camera.bay_m + 0.35)
