"""What people are told of their machine and of their models."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detector_worker.cli import _app
from detector_worker.models.precision_records import PrecisionRecord, PrecisionRecords

HOSTILE = "gate[bold]\x1b[31m_v1"


def told(data_dir: Path, *arguments: str, **settings: str) -> tuple[int, str]:
    variables = {f"DETECTOR_WORKER_{name}": value for name, value in settings.items()}
    command = ["doctor", "--data-dir", str(data_dir), *arguments]
    outcome = CliRunner().invoke(_app, command, env=variables)
    return outcome.exit_code, outcome.stdout


@pytest.fixture
def checked(tmp_path: Path) -> Path:
    record = PrecisionRecord(
        HOSTILE, "m.onnx", "openvino", "bf16", False, "3 of 40 objects lost", "2026-11-25T10:00:00"
    )
    PrecisionRecords(tmp_path / "models" / "precisions").put("0" * 64, record)
    return tmp_path


def test_a_machine_is_described(tmp_path: Path) -> None:
    code, text = told(tmp_path / "not yet there")

    assert code == 0
    assert "openvino 20" in text
    assert "Models run with openvino on cpu, precision auto" in text
    assert "No model was checked" in text


def test_each_check_is_told_with_its_reason(checked: Path) -> None:
    code, text = told(checked, "--json")

    (one,) = json.loads(text)["precision_checks"]
    assert code == 0
    assert (one["model_id"], one["is_taken"], one["reason"]) == (HOSTILE, False, "3 of 40 objects lost")


def test_what_an_archive_calls_itself_does_nothing_to_the_terminal(checked: Path) -> None:
    _, text = told(checked, COLUMNS="200")

    assert "gate[bold]" in text
    assert "\x1b" not in text


def test_what_is_amiss_is_told_and_exits_1(tmp_path: Path) -> None:
    code, text = told(tmp_path, "--json", MODELS__PRECISION="int8")

    assert code == 1
    assert any("models.precision is int8" in fault for fault in json.loads(text)["amiss"])


def test_a_device_that_is_not_there_is_amiss(tmp_path: Path) -> None:
    code, text = told(tmp_path, MODELS__DEVICE="coreml", COLUMNS="200")

    assert code == 1
    assert "Amiss:" in text
    assert "coreml" in text
