"""Which reports, or the lack of which, end a group's process."""

import pytest

from detector_worker.engine.group_owner import GroupReport
from detector_worker.engine.pulse import Pulse


def _ask(pulse: Pulse, begin_s: float, end_s: float) -> str | None:
    """Ask every second; the first fault that is found."""
    now_s = begin_s
    while now_s <= end_s:
        if (fault := pulse.fault(now_s)) is not None:
            return f"{now_s:.0f}: {fault}"
        now_s += 1
    return None


def _report(*, stuck_threads: int = 0, busy_s: float = 0.0) -> GroupReport:
    return GroupReport((), {}, stuck_threads=stuck_threads, busy_s=busy_s)


def test_a_process_that_reports_is_left_alone() -> None:
    pulse = Pulse(0.0)
    for second in range(100):
        pulse.note(_report(stuck_threads=2, busy_s=29.0), float(second))
        assert pulse.fault(float(second)) is None


def test_ten_seconds_without_a_report_are_too_long() -> None:
    pulse = Pulse(0.0)
    pulse.note(_report(), 5.0)
    assert _ask(pulse, 0.0, 60.0) == "15: gave no sign of life"


def test_a_new_process_has_a_minute() -> None:
    assert _ask(Pulse(0.0), 0.0, 90.0) == "60: gave no sign of life"


@pytest.mark.parametrize(
    ("report", "says"), [(_report(stuck_threads=3), "3 threads"), (_report(busy_s=31.0), "one frame for 31 s")]
)
def test_what_three_reports_in_a_row_tell_is_a_hang(report: GroupReport, says: str) -> None:
    pulse = Pulse(0.0)
    for second in (1.0, 2.0):
        pulse.note(report, second)
        assert pulse.fault(second) is None
    pulse.note(report, 3.0)
    assert says in str(pulse.fault(3.0))


def test_what_one_report_tells_after_a_sleep_is_not() -> None:
    pulse = Pulse(0.0)
    for second, busy_s in enumerate((0.1, 60.0, 0.1, 60.0)):
        pulse.note(_report(busy_s=busy_s), float(second))
        assert pulse.fault(float(second)) is None


def test_nobody_is_blamed_for_a_silence_that_we_slept_through() -> None:
    pulse = Pulse(0.0)
    pulse.note(_report(), 1.0)
    assert pulse.fault(1.0) is None

    assert pulse.fault(500.0) is None
    assert _ask(pulse, 501.0, 600.0) == "510: gave no sign of life"
