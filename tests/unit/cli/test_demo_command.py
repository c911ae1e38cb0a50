"""What is ordered, and what is refused before anything starts."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from detector_worker.cli import _app as app
from detector_worker.cli.demo.command import film_orders, snapshot_cameras
from detector_worker.core.exceptions import ConfigurationError


def test_vehicles_are_spread_over_the_cameras() -> None:
    assert [order.vehicles for order in film_orders(10, seed=3, cameras=4)] == [3, 3, 2, 2]
    assert [order.vehicles for order in film_orders(None, seed=3, cameras=4)] == [6, 6, 6, 6]


def test_a_camera_without_vehicles_is_none() -> None:
    orders = film_orders(2, seed=3, cameras=4)

    assert [(order.camera, order.vehicles, order.seed) for order in orders] == [(1, 1, 3), (2, 1, 3)]


def test_stops_are_at_least_as_long_as_asked() -> None:
    (short,) = film_orders(1, seed=1, cameras=1, shortest_stop_s=8)
    (long,) = film_orders(1, seed=1, cameras=1, shortest_stop_s=90)

    assert (short.shortest_stop_s, short.longest_stop_s) == (8, 60)
    assert (long.shortest_stop_s, long.longest_stop_s) == (90, 90)


def test_the_last_of_several_cameras_gives_snapshots() -> None:
    assert snapshot_cameras(("cam-1", "cam-2", "cam-3")) == {"cam-3"}
    assert snapshot_cameras(("cam-1",)) == set()


def test_a_data_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")

    with pytest.raises(ConfigurationError, match=f"not empty.*{tmp_path}.*--data-dir"):
        CliRunner().invoke(app, ["demo", "--data-dir", str(tmp_path)], catch_exceptions=False)


def test_json_needs_a_number_of_vehicles() -> None:
    result = CliRunner().invoke(app, ["demo", "--json"])

    assert result.exit_code == 2
    assert "--vehicles" in result.output
