"""What a picture of a scene costs."""

import time
from pathlib import Path
from statistics import median

import pytest

from detector_worker.simulator.film import FilmOrder, make_film

pytestmark = pytest.mark.performance


@pytest.mark.timeout(300)
def test_cpu_time_of_a_picture(tmp_path: Path) -> None:
    """Render and encode one film of each light; backdrop and sprites included."""
    costs = {}
    for camera in range(1, 5):
        started_s = time.process_time()
        film = make_film(FilmOrder(seed=5, camera=camera, vehicles=6), cache=tmp_path)
        pictures = film.truth.duration_s * film.truth.fps
        costs[film.truth.light] = (time.process_time() - started_s) / pictures * 1000
        mbit_per_s = film.path.stat().st_size * 8e-6 / film.truth.duration_s
        print(f"\n{film.truth.light}: {costs[film.truth.light]:.1f} ms of CPU a picture, {mbit_per_s:.1f} Mbit/s")  # noqa: T201 - a measurement
    print(f"median of the lights: {median(costs.values()):.1f} ms")  # noqa: T201 - a measurement
    assert costs.keys() == {"day", "night", "rain", "dusk"}


@pytest.mark.timeout(300)
def test_what_hardly_moves_costs_little(tmp_path: Path) -> None:
    def cost_s(order: FilmOrder) -> float:
        started_s = time.process_time()
        pictures = make_film(order, cache=tmp_path).truth.duration_s * order.fps
        return (time.process_time() - started_s) / pictures

    still = cost_s(FilmOrder(5, 1, 2, 2.0, longest_stop_s=250.0, scene="parked"))
    moving = cost_s(FilmOrder(5, 1, 6, 5.0, scene="crowded"))
    assert still < 0.7 * moving
