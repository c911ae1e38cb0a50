import pytest

from detector_worker.engine.rates import LatencyWindow, RateMeter


def test_the_rate_is_that_of_the_window() -> None:
    meter = RateMeter(window_s=10)
    for n in range(500):  # 25 a second for 20 s
        meter.add(1000 + n / 25)

    assert meter.per_second(1020) == pytest.approx(25, rel=0.15)
    assert meter.total == 500
    assert meter.per_second(1031) == 0


def test_a_young_meter_is_judged_by_its_age() -> None:
    meter = RateMeter()
    for n in range(20):
        meter.add(n / 10)

    assert meter.per_second(2.0) == pytest.approx(10)


def test_percentiles_are_in_milliseconds() -> None:
    window = LatencyWindow()
    assert window.percentiles_ms() is None
    for n in range(101):
        window.add(n / 1000)

    assert window.percentiles_ms() == pytest.approx((50, 95))
