"""Films of all kinds of scenes, as they are encoded: each shows what its kind promises, and anybody could count."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice, pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from detector_worker.simulator.film import Film, FilmOrder, make_film
from detector_worker.simulator.scenes.kinds import SCENE_KINDS, SceneKind
from detector_worker.simulator.scenes.truth import SceneTruth, VehicleTruth

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
FPS = 2.5
VEHICLES: dict[SceneKind, int] = {"mix": 2, "night": 1, "rain": 1, "shake": 2}
LONGEST_STOP_S: dict[SceneKind, float] = {"parked": 60.0}
ORDERS: dict[SceneKind, FilmOrder] = {
    kind: FilmOrder(5, camera, VEHICLES.get(kind, 4), FPS, longest_stop_s=LONGEST_STOP_S.get(kind, 12.0), scene=kind)
    for camera, kind in enumerate(SCENE_KINDS, start=1)
}
FilmOf = Callable[[SceneKind], Film]


@pytest.fixture(scope="module")
def film_of(tmp_path_factory: pytest.TempPathFactory) -> FilmOf:
    folder = tmp_path_factory.mktemp("films")
    return cache(lambda kind: make_film(ORDERS[kind], cache=folder))


def pictures(film: Film) -> Iterator[NDArray[np.uint8]]:
    """Half as large, grey."""
    with av.open(str(film.path)) as container:
        for frame in container.decode(video=0):
            yield np.asarray(frame.reformat(640, 360, "gray").to_ndarray(), np.uint8)


def in_view_s(one: VehicleTruth, truth: SceneTruth) -> float:
    """How long more than half of it is seen outside the masks."""
    total_s = 0.0
    rows = [*one.boxes, (one.leaves_s, *one.boxes[-1][1:])]
    for (since_s, x1, y1, x2, y2, visible), following in pairwise(rows):
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        masked = any(left <= x < right and top <= y < bottom for left, top, right, bottom in truth.ignore_masks)
        total_s += following[0] - since_s if visible > 0.5 and not masked else 0.0
    return total_s


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_who_is_in_the_truth_could_be_counted_by_anybody(film_of: FilmOf, kind: SceneKind) -> None:
    film = film_of(kind)
    truth = film.truth
    assert (truth.scene, len(truth.vehicles)) == (kind, ORDERS[kind].vehicles)
    assert min(in_view_s(one, truth) for one in truth.vehicles) > 3.0
    assert all(
        0 < one.enters_s < one.stops_s < one.starts_s < one.leaves_s < truth.duration_s for one in truth.vehicles
    )
    with av.open(str(film.path)) as container:
        assert sum(1 for _ in container.demux(video=0) if _.size) == round(truth.duration_s * FPS)


def test_the_same_order_gives_the_same_film(film_of: FilmOf, tmp_path: Path) -> None:
    again = make_film(ORDERS["shake"], cache=tmp_path)
    assert again.path.read_bytes() == film_of("shake").path.read_bytes()
    assert again.truth == film_of("shake").truth


def test_at_a_crowded_gate_the_next_one_is_there_before_two_seconds_have_passed(film_of: FilmOf) -> None:
    assert np.mean([one.gap_s for one in film_of("crowded").truth.vehicles[1:]]) < 2.0


def test_half_of_those_who_stand_are_hidden_for_two_seconds(film_of: FilmOf) -> None:
    vehicles = film_of("occlusion").truth.vehicles
    hidden = [one for one in vehicles if one.hidden_s >= 2.0]
    assert len(hidden) >= 0.5 * len(vehicles)
    assert all(one.occluded for one in hidden)
    mix = film_of("mix").truth.vehicles
    assert sum(one.hidden_s for one in vehicles) > 3 * sum(one.hidden_s for one in mix)


def test_night_and_rain_are_what_they_are_called(film_of: FilmOf) -> None:
    assert all(one.at_night for one in film_of("night").truth.vehicles)
    assert all(one.in_rain for one in film_of("rain").truth.vehicles)
    brightness = {kind: next(pictures(film_of(kind))).mean() for kind in ("mix", "rain", "night")}
    assert film_of("mix").truth.light == "day"
    assert brightness["night"] < 0.9 * brightness["rain"] < 0.8 * brightness["mix"]


def test_where_somebody_parks_all_day_night_falls_lamps_go_on_and_it_is_day_again(film_of: FilmOf) -> None:
    film = film_of("parked")
    assert film.truth.light == "changing"
    assert {one.at_night for one in film.truth.vehicles} == {True, False}
    assert any(one.parked and one.starts_s - one.stops_s > 59 for one in film.truth.vehicles)
    bright = np.array([picture[:270].mean() for picture in pictures(film)])
    day, night = bright[:10].mean(), np.percentile(bright, 5)
    assert night < 0.55 * day
    assert bright[int(0.85 * len(bright)) :].max() > 0.9 * day
    darkest = int(bright.argmin())
    assert 0.35 < darkest / len(bright) < 0.8
    # A lamp that goes on is brighter by the next picture; a cloud takes a few.
    assert np.diff(bright[int(0.38 * len(bright)) : int(0.75 * len(bright))]).max() > 0.12 * night


def test_a_bad_mount_moves_the_picture(film_of: FilmOf) -> None:
    def moves_px(kind: SceneKind) -> list[float]:
        """From one picture to the next, as the upper part of 150 of them shows it."""
        window = cv2.createHanningWindow((640, 120), cv2.CV_32F)
        upper = [picture[:120].astype(np.float32) for picture in islice(pictures(film_of(kind)), 150)]
        shifts = (cv2.phaseCorrelate(before, after, window)[0] for before, after in pairwise(upper))
        return [2 * math.hypot(dx, dy) for dx, dy in shifts]

    shaken, mix = moves_px("shake"), moves_px("mix")
    assert np.percentile(shaken, 90) > 6
    assert np.median(shaken) > 3
    assert np.median(shaken) > 1.5 * np.median(mix)
