"""A parked vehicle through half an hour of changing light, an outage of the camera and a restart of the group."""

from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.truth.film_run import FilmRun
from benchmarks.truth.scenes import Watch
from detector_worker.app import load_configuration
from detector_worker.cli.demo.command import ARCHIVE
from detector_worker.cli.demo.comparison import compare
from detector_worker.cli.films import film_cache
from detector_worker.simulator.film import FilmOrder, make_film


@pytest.mark.faults
@pytest.mark.timeout(400)  # most of it is making 30 minutes of film, once
@pytest.mark.parametrize("camera", [1, 2])
async def test_a_car_parked_through_an_outage_and_a_restart_is_one_record(tmp_path: Path, camera: int) -> None:
    """People stop before it, the light changes, and for ten minutes nobody looks; then another group does."""
    order = FilmOrder(seed=61, camera=camera, vehicles=1, fps=2, longest_stop_s=1800, scene="parked")
    film = make_film(order, cache=film_cache())
    (vehicle,) = film.truth.vehicles
    assert vehicle.starts_s - vehicle.stops_s >= 1799
    run = FilmRun(film, ARCHIVE, load_configuration(overrides={"server": {"data_dir": str(tmp_path)}}))

    await run.run((Watch(0.0, 700.0), Watch(1300.0, float("inf"))))

    times = [sent.film_s for sent in run.played.sent]
    assert max(after - before for before, after in pairwise(times)) >= 600, "the outage"
    found = compare([run.played], run.records)
    assert (found.vehicles, found.records, found.missed, found.duplicates) == (1, 1, 0, 0), found.explanations
    assert run.analysed > 100, "who looks away all the time has shown nothing"
