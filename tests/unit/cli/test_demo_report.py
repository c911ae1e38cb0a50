"""What is printed, and what counts as a failure."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from detector_worker.cli.demo.comparison import Comparison, Finding
from detector_worker.cli.demo.report import Report

GOOD = Comparison(
    vehicles=3,
    records=3,
    missed=0,
    duplicates=0,
    brand_correct=3,
    body_correct=2,
    plate_correct=1,
    plate_readable=1,
    wrong_plate_to_car=0,
    findings=(Finding("reading", "cam-1", 2.0, "cam-1/1", None, "cam-1/1: the body is 'suv', not [bold]'van'"),),
)


def test_the_figures_are_one_line_of_json_in_their_order() -> None:
    text = Report(GOOD, images_stored=6, latencies_ms=(100.0, 200.04, 300.0)).to_json()

    assert text == (
        '{"vehicles":3,"records":3,"missed":0,"duplicates":0,"brand_correct":3,"body_correct":2,"plate_correct":1,'
        '"plate_readable":1,"images_stored":6,"latency_ms":{"p50":200.0,"p95":290.0}}'
    )


def test_without_any_result_there_is_no_latency() -> None:
    figures = json.loads(Report(GOOD, images_stored=6, latencies_ms=()).to_json())

    assert figures["latency_ms"] == {"p50": None, "p95": None}


@pytest.mark.parametrize(
    ("report", "failures"),
    [
        (Report(GOOD, 6, ()), []),
        (Report(replace(GOOD, missed=2), 6, ()), ["vehicles missed: 2"]),
        (Report(replace(GOOD, duplicates=1), 5, ()), ["records too many: 1", "pictures lost: 1"]),
    ],
)
def test_missing_doubling_and_losing_are_failures_and_wrong_readings_are_not(
    report: Report, failures: list[str]
) -> None:
    assert report.failures == failures


def test_people_read_a_table_and_an_explanation_of_each_fault() -> None:
    console = Console(file=io.StringIO(), width=120)
    Report(GOOD, images_stored=6, latencies_ms=(24.0,)).print(console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()

    assert "3 vehicles, 3 records" in text
    assert "24.0 ms (median)" in text
    assert "- cam-1/1: the body is 'suv', not [bold]'van'" in text
