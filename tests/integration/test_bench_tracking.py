"""The command, on real sequences."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.assets import assets_dir
from support.command_line import call_here

import detector_worker
from benchmarks.tracking.report import as_text

FIGURES = {"hota", "mota", "idf1", "id_switches", "ms_per_frame"}


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("detector-worker")), "bench", "tracking", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.slow
@pytest.mark.timeout(250)
def test_the_tracker_follows_people_better_than_each_of_the_peers() -> None:
    outcome = bench("--mot", assets_dir() / "mot", "--json")

    assert outcome.returncode == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    peers = {"SORT", "ByteTrack", "OC-SORT"}
    assert [one["name"] for one in found["sequences"]] == ["KITTI-17", "PETS09-S2L1", "TUD-Campus"]
    for part in (*found["sequences"], found["mean"]):
        assert part["peers"].keys() == peers
        assert all(figures.keys() >= FIGURES for figures in (part["ours"], *part["peers"].values()))
        assert part["ours"]["hota"] >= max(peer["hota"] for peer in part["peers"].values()) - 2
    for figure in ("hota", "idf1"):
        assert found["mean"]["ours"][figure] >= max(peer[figure] for peer in found["mean"]["peers"].values())
    assert found["settings"].keys() == {"ours", *peers}
    told = as_text(found)
    for word in ("TUD-Campus", "high_conf_det_threshold=0.5", "times faster"):
        assert word in told


def test_a_folder_that_is_absent_is_told_in_a_line(tmp_path: Path) -> None:
    outcome = call_here("bench", "tracking", "--mot", tmp_path / "absent")

    assert outcome.returncode == 1
    assert outcome.stderr.startswith("detector-worker: No such folder")
    assert outcome.stdout == ""


def bench_after(statement: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a Python that has done something before, and looks for packages in a folder first."""
    command = [sys.executable, "-c", f"{statement}; from detector_worker.cli import main; main()"]
    return subprocess.run(
        [*command, "bench", "tracking", "--mot", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )


def test_an_installed_package_says_how_to_get_the_benchmarks(tmp_path: Path) -> None:
    (tmp_path / "detector_worker").symlink_to(Path(detector_worker.__file__).parent)

    outcome = bench_after("pass", tmp_path)

    assert outcome.returncode == 1
    assert f"no part of the installed package [{tmp_path}]" in outcome.stderr
    assert "make install-dev" in outcome.stderr


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    outcome = bench_after("import sys; sys.modules['trackeval'] = None", tmp_path)

    assert outcome.returncode == 1
    assert outcome.stderr.startswith("detector-worker: The package trackeval.metrics is missing")
    assert "make install-dev" in outcome.stderr
