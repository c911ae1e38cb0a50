"""Every fault that a camera can have, all at the same moment, in one group beside cameras that are sound."""

import asyncio
import threading
from dataclasses import dataclass
from multiprocessing import resource_tracker

import pytest
from support.descriptors import open_descriptors
from support.fault_cases import CASES, PASSWORD, SOUND, TARGET_FPS, Case, Outcome, Report
from support.fault_matrix import run_fault_matrix
from support.stream_tables import matrix_table

from detector_worker.core.entities import StreamState

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

_CALM_S = 60.0
_SEEN_S = 10.0
_STOP_S = 2.0
_BACK_S = 3.0
_LONGEST_OPENING_S = 9.0
"""Until an attempt that the fault had caught is given up: eight seconds of silence, and one for its call to end."""

_TELLING = [case for case in CASES if case.error_class is not None]
_ALL = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
_FAULTY = pytest.mark.parametrize("case", _TELLING, ids=lambda case: case.name)


@dataclass(frozen=True)
class Run:
    """The one run that all tests look at."""

    report: Report
    left_threads: set[str]
    left_descriptors: dict[str, int]

    def outcome(self, case: Case) -> Outcome:
        return self.report.outcomes[case.name]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the matrix in an event loop of its own, so that what it leaves can be told."""
    folder = tmp_path_factory.mktemp("matrix")
    resource_tracker.ensure_running()  # multiprocessing's own helper stays
    threads, descriptors = set(threading.enumerate()), open_descriptors()
    report = asyncio.run(run_fault_matrix(folder, calm_s=_CALM_S))
    print(matrix_table(report))  # noqa: T201 - a measurement
    left_threads = {thread.name for thread in set(threading.enumerate()) - threads}
    return Run(report, left_threads, dict(open_descriptors() - descriptors))


@_FAULTY
def test_a_fault_is_seen_and_its_class_told_within_ten_seconds(run: Run, case: Case) -> None:
    outcome = run.outcome(case)

    assert outcome.told_s is not None, f"told were only {outcome.classes}"
    assert outcome.seen_s is not None
    assert outcome.seen_s <= outcome.told_s <= _SEEN_S


@_FAULTY
def test_nothing_but_the_cut_itself_is_told_besides(run: Run, case: Case) -> None:
    may_be_told = {case.error_class, "ended"} if case.is_cut or case.error_class == "refused" else {case.error_class}

    assert set(run.outcome(case).classes) <= may_be_told


@_FAULTY
def test_a_camera_is_back_within_one_retry_of_its_return(run: Run, case: Case) -> None:
    outcome = run.outcome(case)
    opening_s = _LONGEST_OPENING_S if outcome.was_opening else 0.0

    assert outcome.back_s is not None
    assert outcome.back_s <= opening_s + outcome.retry_in_s + _BACK_S


@_ALL
def test_a_stream_can_be_ended_within_two_seconds_while_its_fault_lasts(run: Run, case: Case) -> None:
    assert run.outcome(case).spare_stop_s <= _STOP_S
    assert run.outcome(case).stop_s <= _STOP_S


@pytest.mark.parametrize("camera_id", SOUND)
def test_a_sound_camera_is_analysed_as_before(run: Run, camera_id: str) -> None:
    assert run.report.rates_before[camera_id] > 0
    assert run.report.rates_during[camera_id] >= 0.9 * run.report.rates_before[camera_id]


@_ALL
def test_a_faulty_camera_had_been_analysed_before(run: Run, case: Case) -> None:
    assert run.report.analysed_before[case.camera_id] >= _CALM_S


@pytest.mark.parametrize("case", [case for case in CASES if case.error_class is None], ids=lambda case: case.name)
def test_such_a_camera_stays_active_and_is_analysed(run: Run, case: Case) -> None:
    outcome = run.outcome(case)

    assert outcome.states <= {StreamState.ACTIVE}
    assert outcome.back_s is None
    assert outcome.analysed_per_s >= 0.9 * TARGET_FPS


@pytest.mark.parametrize("case", [case for case in CASES if case.warning is not None], ids=lambda case: case.name)
def test_a_warning_is_told_within_ten_seconds(run: Run, case: Case) -> None:
    outcome = run.outcome(case)

    assert outcome.warned_s is not None
    assert outcome.warned_s <= _SEEN_S


def test_snapshots_are_analysed_while_they_stand_in(run: Run) -> None:
    assert run.report.outcomes["refuse with a fall-back"].analysed_per_s >= 0.5 * TARGET_FPS
    assert run.report.outcomes["refuse"].analysed_per_s < 0.1 * TARGET_FPS


def test_not_one_damaged_picture_is_analysed(run: Run) -> None:
    camera_id = "corrupted-packets"

    assert run.report.outcomes["corrupted packets"].damaged > 0
    assert run.report.compared_pictures[camera_id] > _CALM_S
    assert run.report.wrong_pictures[camera_id] == 0


def test_a_camera_goes_on_in_its_new_size_and_back_again(run: Run) -> None:
    camera_id = "resolution-changes"

    assert run.report.sizes[camera_id] == [(320, 192), (640, 384), (320, 192)]
    assert run.report.wrong_pictures[camera_id] == 0


def test_no_other_camera_counts_damaged_pictures(run: Run) -> None:
    damaged = {name for name, outcome in run.report.outcomes.items() if outcome.damaged}

    assert damaged <= {"corrupted packets", "HTTP half a picture"}


def test_no_thread_is_ever_stuck(run: Run) -> None:
    assert run.report.most_stuck_threads == 0


def test_nothing_is_left_of_it_all(run: Run) -> None:
    assert run.left_threads == set()
    assert run.left_descriptors == {}


def test_the_password_is_shown_nowhere(run: Run) -> None:
    shown = run.report.shown

    for case in CASES:
        assert case.camera_id in shown
    assert "Traceback" in shown
    assert "No frame yet" in shown
    assert "leads to 169.254.169.254, where this worker must not connect" in shown
    assert "detector_worker_camera_state" in shown
    assert PASSWORD not in shown
