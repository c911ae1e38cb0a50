"""Films: made once for an order, and what the cache does when something is in the way."""

from itertools import pairwise
from pathlib import Path

import av
import pytest

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.film import Film, FilmOrder, make_film
from detector_worker.simulator.scenes.truth import SceneTruth

ORDER = FilmOrder(seed=9, camera=1, vehicles=1, fps=2.5, shortest_stop_s=1.0, longest_stop_s=1.5)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Film:
    return make_film(ORDER, cache=tmp_path_factory.mktemp("films"))


def test_a_film_shows_what_its_truth_says(film: Film) -> None:
    with av.open(str(film.path)) as container:
        pictures = sum(1 for _ in container.decode(video=0))
    assert pictures == film.truth.duration_s * ORDER.fps
    (vehicle,) = film.truth.vehicles
    assert 0 < vehicle.enters_s < vehicle.stops_s < vehicle.starts_s < vehicle.leaves_s < film.truth.duration_s
    standing = vehicle.box_at((vehicle.stops_s + vehicle.starts_s) / 2)
    assert standing is not None
    assert 100 < standing[2] - standing[0] < film.truth.wh[0]
    assert vehicle.box_at(film.truth.duration_s) is None


def test_a_film_can_be_played_from_a_camera(film: Film) -> None:
    clip = Clip.load(film.path)
    keys = [picture.send_s for picture in clip.pictures if picture.is_key]
    assert clip.duration_s == pytest.approx(film.truth.duration_s)
    assert max(later - earlier for earlier, later in pairwise(keys)) <= 2.0
    assert [picture.timestamp for picture in clip.pictures] == sorted(picture.timestamp for picture in clip.pictures)


def test_an_order_is_carried_out_once(film: Film) -> None:
    before = film.path.stat().st_ino
    told: list[float] = []
    again = make_film(ORDER, cache=film.path.parent, progress=told.append)
    assert (again.path, again.path.stat().st_ino, told) == (film.path, before, [])
    assert again.truth == film.truth


def test_the_truth_survives_being_written(film: Film) -> None:
    assert SceneTruth.from_json(film.truth.to_json()) == film.truth


def test_a_file_in_the_way_of_the_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "films").write_text("not a folder")
    with pytest.raises(ConfigurationError, match="films"):
        make_film(ORDER, cache=tmp_path / "films")
