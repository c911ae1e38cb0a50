"""When pictures were taken, from what the camera's clock says and when they arrived."""

import pytest

from detector_worker.streams.capture_clock import CaptureClock

_UTC_S = 1_800_000_000.0


def _times(clock: CaptureClock, arrived_s: float, sender_s: float | None) -> tuple[float, float]:
    time_s, captured_at = clock.times(arrived_s=arrived_s, arrived_utc_s=_UTC_S + arrived_s, sender_s=sender_s)
    assert captured_at - _UTC_S == pytest.approx(time_s, abs=1e-5)
    return time_s, captured_at


def test_a_camera_that_tells_no_time_took_its_picture_when_it_arrived() -> None:
    assert _times(CaptureClock(), 12.5, None)[0] == 12.5


def test_a_wrong_clock_is_no_matter() -> None:
    clock = CaptureClock()
    for arrived_s in (1.0, 1.2, 1.4):
        assert _times(clock, arrived_s, arrived_s - 86_400 * 365)[0] == pytest.approx(arrived_s, abs=1e-5)


def test_a_picture_that_was_held_up_was_taken_when_the_camera_says() -> None:
    clock = CaptureClock()
    _times(clock, 10.0, 1000.0)
    assert _times(clock, 10.9, 1000.2)[0] == pytest.approx(10.2)
    assert _times(clock, 10.9, 1000.4)[0] == pytest.approx(10.4)
    assert _times(clock, 11.0, 1001.0)[0] == pytest.approx(11.0)
    assert not clock.is_suspect


def test_a_network_that_held_everything_for_seconds_is_no_jump_of_the_clock() -> None:
    clock = CaptureClock()
    _times(clock, 10.0, 1000.0)
    assert _times(clock, 18.0, 1000.2)[0] == pytest.approx(10.2)
    assert _times(clock, 18.1, 1008.1)[0] == pytest.approx(18.1)
    assert not clock.is_suspect


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0, -3.0])
def test_a_clock_that_jumps_is_suspect_for_a_minute_and_anchored_anew(jump_s: float) -> None:
    clock = CaptureClock()
    _times(clock, 10.0, 1000.0)
    assert _times(clock, 10.2, 1000.2 + jump_s)[0] == pytest.approx(10.2)
    assert _times(clock, 10.4, 1000.4 + jump_s)[0] == pytest.approx(10.4)
    assert clock.is_suspect

    _times(clock, 71.0, 1061.0 + jump_s)
    assert not clock.is_suspect


def test_a_delay_beyond_belief_is_none() -> None:
    clock = CaptureClock()
    for step in range(100):
        time_s = _times(clock, 10.0 + step, 1000.0 + step / 5)[0]
    assert time_s == 109.0


def test_time_never_runs_backwards_and_never_lies_ahead() -> None:
    clock = CaptureClock()
    last_s = 0.0
    for arrived_s, sender_s in [(1.0, 50.0), (2.0, 50.2), (2.1, 50.1), (2.2, 52.0), (2.3, 51.9), (9.0, None)]:
        time_s, _ = _times(clock, arrived_s, sender_s)
        assert last_s <= time_s <= arrived_s
        last_s = time_s


def test_a_drifting_clock_is_followed() -> None:
    clock = CaptureClock()
    delays_s = []
    for tenth in range(36_000):  # an hour; the camera's clock is slow by 200 ppm
        arrived_s = tenth / 10
        delays_s.append(arrived_s - _times(clock, arrived_s, arrived_s * (1 - 2e-4))[0])
    assert max(delays_s) < 0.02
