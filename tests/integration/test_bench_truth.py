"""The truth benchmark, on a scene of one camera and a few vehicles; and that it can fail."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
from support.command_line import call_here
from typer.testing import CliRunner, Result

import benchmarks.truth.command
import benchmarks.truth.scenes
from benchmarks.truth.scenes import Scene
from detector_worker.cli.bench import bench
from detector_worker.cli.films import film_cache
from detector_worker.simulator.film import make_film
from detector_worker.simulator.scenes.truth import SceneTruth, VehicleTruth

TINY = Scene("tiny", "mix", cameras=1, vehicles_each=3, longest_stop_s=8.0)
FIGURES = [
    "vehicles",
    "records",
    "missed",
    "duplicates",
    "wrong_plate_to_car",
    "brand_accuracy",
    "body_accuracy",
    "plate_accuracy",
]

Doctor = Callable[[Callable[[tuple[VehicleTruth, ...]], tuple[VehicleTruth, ...]]], None]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A film cache of our own, for the processes of the benchmark too, that knows the tiny scene only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for module in (benchmarks.truth.scenes, benchmarks.truth.command):
            patch.setattr(module, "SCENES", (TINY,))
        yield film_cache()


@pytest.fixture(scope="module")
def truth_path(cache: Path) -> Path:
    """The file that says what happened in the tiny scene's film."""
    (order,) = TINY.orders(seed=1)
    return make_film(order, cache=cache).path.with_suffix(".json")


@pytest.fixture
def doctor(truth_path: Path) -> Iterator[Doctor]:
    """Change what is said to have happened, until the test ends."""
    untouched = truth_path.read_bytes()

    def doctor(change: Callable[[tuple[VehicleTruth, ...]], tuple[VehicleTruth, ...]]) -> None:
        truth = SceneTruth.load(truth_path)
        truth_path.write_bytes(replace(truth, vehicles=change(truth.vehicles)).to_json())

    yield doctor
    truth_path.write_bytes(untouched)


def bench_truth(*arguments: str | Path) -> Result:
    return CliRunner().invoke(bench, ["truth", *map(str, arguments)], catch_exceptions=False)


def ghosts(vehicles: tuple[VehicleTruth, ...], count: int) -> tuple[VehicleTruth, ...]:
    """Say that others stood in a corner of the picture, where nobody was."""
    first = vehicles[0]
    corner = ((first.enters_s, 0.0, 0.0, 60.0, 40.0, 1.0),)
    return tuple(
        replace(first, vehicle_id=f"cam-1/ghost-{number}", plate=f"GH{number}OST", boxes=corner)
        for number in range(count)
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_json_is_one_object_with_each_scenes_figures_and_the_total(truth_path: Path) -> None:
    result = bench_truth("--json")

    assert result.exit_code == 0
    found: dict[str, Any] = json.loads(result.stdout)
    assert list(found) == ["scenes", "total"]
    (scene,) = found["scenes"]
    assert list(scene) == ["name", *FIGURES]
    assert list(found["total"]) == FIGURES
    assert {key: value for key, value in scene.items() if key != "name"} == found["total"]
    assert [scene[key] for key in ("name", *FIGURES[:5])] == ["tiny", 3, 3, 0, 0, 0]
    assert all(scene[key] is None or 0 <= scene[key] <= 1 for key in FIGURES[5:])


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_vehicles_without_a_record_are_told_and_shown(doctor: Doctor, tmp_path: Path) -> None:
    doctor(lambda vehicles: vehicles + ghosts(vehicles, 3))
    page = tmp_path / "truth.md"

    result = bench_truth("--scene", "tiny", "--page", page)

    assert result.exit_code == 1
    for number in range(3):
        assert f"tiny: cam-1/ghost-{number}" in result.stdout
    text = page.read_text()
    assert "| tiny | 6 | 3 | 3 | 0 | 0 |" in text
    assert text.count("### tiny: missed") == 3
    shown = [line.rpartition("(")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(shown) >= 3
    assert sorted(path.name for path in (tmp_path / "truth").iterdir()) == sorted(Path(name).name for name in shown)
    for name in shown:
        image = cv2.imread(str(tmp_path / name))
        assert image is not None
        assert image.shape[1] == 720
        assert image.std() > 10, "a picture of the scene"


@pytest.mark.faults
@pytest.mark.timeout(240)
def test_records_of_vehicles_that_were_not_there_count_as_too_many(doctor: Doctor) -> None:
    doctor(lambda vehicles: ())

    result = bench_truth("--json")

    assert result.exit_code == 1
    total = json.loads(result.stdout)["total"]
    assert (total["vehicles"], total["records"], total["missed"], total["duplicates"]) == (0, 3, 0, 3)
    assert total["brand_accuracy"] is None


@pytest.mark.faults
@pytest.mark.timeout(240)
def test_two_errors_are_within_what_is_asked_and_one_plate_of_another_is_not(doctor: Doctor) -> None:
    doctor(lambda vehicles: vehicles + ghosts(vehicles, 2))
    assert bench_truth("--json").exit_code == 0

    def swap_plates(vehicles: tuple[VehicleTruth, ...]) -> tuple[VehicleTruth, ...]:
        plates = [one.plate for one in vehicles]
        return tuple(replace(one, plate=plate) for one, plate in zip(vehicles, plates[1:] + plates[:1], strict=True))

    doctor(swap_plates)
    result = bench_truth("--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["total"]["wrong_plate_to_car"] >= 1


@pytest.mark.usefixtures("cache")
def test_a_scene_that_does_not_exist_is_told_with_those_that_do() -> None:
    outcome = call_here("bench", "truth", "--scene", "rush hour", "--json")

    assert (outcome.returncode, outcome.stdout) == (1, "")
    told = "detector-worker: There is no scene 'rush hour' [--scene]. Name one of 'tiny'.\n"
    assert outcome.stderr == told


@pytest.mark.usefixtures("cache")
def test_another_seed_is_another_film() -> None:
    (first,), (second,) = TINY.orders(seed=1), TINY.orders(seed=2)

    assert first.seed != second.seed
    assert replace(second, seed=first.seed) == first
