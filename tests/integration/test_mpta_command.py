"""``detector-worker mpta`` on archives that are broken, and on those that are not."""

import json
import os
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from support.assets import assets_dir
from support.broken_archives import broken_archives, broken_models
from support.tiny_models import write_tiny_mpta
from typer.testing import CliRunner, Result

from detector_worker.cli.mpta import mpta

COMMAND = (sys.executable, "-P", "-m", "detector_worker", "mpta")
EARLY, LATE = broken_archives(), broken_models()
ROOT = Path(__file__).parents[2]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands' own folders are made; what is left there was left behind."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(mpta, [str(argument) for argument in arguments])


def check_refusal(scratch: Path, content: bytes, what: str) -> None:
    archive = scratch.parent / "broken.mpta"
    archive.write_bytes(content)

    result = call("validate", archive)

    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert what in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert list(scratch.iterdir()) == []
    assert {entry.name for entry in scratch.parent.iterdir()} == {"scratch", "broken.mpta"}


def test_there_are_enough_of_them() -> None:
    assert len(EARLY) + len(LATE) >= 45


@pytest.mark.parametrize("name", EARLY)
def test_a_broken_archive_is_refused_by_name(scratch: Path, name: str) -> None:
    check_refusal(scratch, *EARLY[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LATE)
def test_an_archive_with_a_broken_model_is_refused_by_name(scratch: Path, name: str) -> None:
    check_refusal(scratch, *LATE[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["symbolic link", "weights that are NaN"])
def test_the_command_itself_says_so_too(tmp_path: Path, name: str) -> None:
    content, what = (EARLY | LATE)[name]
    (tmp_path / "broken.mpta").write_bytes(content)

    result = run("validate", "broken.mpta", cwd=tmp_path)

    assert result.returncode == 2
    assert what in result.stderr
    assert "Traceback" not in result.stderr


def test_the_demo_archive_is_fine_and_can_be_shown(tmp_path: Path) -> None:
    demo = str(files("detector_worker.simulator") / "demo.mpta")

    result = run("validate", demo, "--json", cwd=tmp_path)
    shown = call("inspect", demo, "--svg", tmp_path / "demo.svg")

    assert result.returncode == 0, result.stderr
    [verdict] = json.loads(result.stdout)
    assert (verdict["is_valid"], verdict["faults"], verdict["warnings"]) == (True, [], [])
    assert shown.exit_code == 0, shown.stderr
    assert "gate_visits" in shown.stdout
    assert (tmp_path / "demo.svg").read_text() == (ROOT / "docs" / "pipeline.svg").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("archive", ["real-traffic.mpta", "real-plates.mpta"])
def test_the_real_archives_are_fine(scratch: Path, archive: str) -> None:
    assets_dir()
    path = ROOT / "build" / archive
    if not path.is_file():
        pytest.skip(f"needs {path}: pack it with tools/pack_real_assets.py")

    result = call("validate", path)

    assert result.exit_code == 0, result.stderr
    assert ": valid; models" in result.stdout
    assert list(scratch.iterdir()) == []


def test_several_archives_are_judged_one_by_one(scratch: Path) -> None:
    good = write_tiny_mpta(scratch.parent / "good.mpta")
    (scratch.parent / "bad.mpta").write_bytes(b"")

    result = call("validate", good, scratch.parent / "bad.mpta", "--json")

    assert result.exit_code == 2
    assert [(one["archive"], one["is_valid"]) for one in json.loads(result.stdout)] == [
        ("good.mpta", True),
        ("bad.mpta", False),
    ]


def test_usage_errors_and_other_failures_have_their_own_exits(tmp_path: Path) -> None:
    archive = write_tiny_mpta(tmp_path / "a.mpta")

    assert call("validate", tmp_path / "absent.mpta").exit_code == 2
    nowhere = run("validate", archive.name, "--database", "postgresql://x:canary@127.0.0.1:1/x", cwd=tmp_path)
    assert nowhere.returncode == 1, nowhere.stderr
    assert "canary" not in nowhere.stderr
    assert "127.0.0.1:1" in nowhere.stderr
    assert "Traceback" not in nowhere.stderr


def run(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment: dict[str, Any] = os.environ | {"TMPDIR": str(cwd)}
    before = set(cwd.iterdir())
    result = subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    # Importing ONNX Runtime leaves a file `.ses` in the temporary folder, whoever imports it.
    left = {path for path in set(cwd.iterdir()) - before if path.suffix != ".svg" and path.name != ".ses"}
    assert left == set(), "something was left behind"
    return result
