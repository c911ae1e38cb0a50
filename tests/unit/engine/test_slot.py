import threading

import numpy as np

from detector_worker.core.frame import Frame
from detector_worker.engine.slot import FrameSlot


def frame(time_s: float) -> Frame:
    return Frame(np.zeros((4, 4, 3), np.uint8), camera_id="gate", frame_id=0, time_s=time_s, captured_at=0.0)


def test_the_newest_frame_wins_and_the_overwritten_one_is_counted() -> None:
    slot = FrameSlot(target_fps=None, lossless=False)

    slot.put(frame(1.0))
    slot.put(frame(2.0))

    assert slot.take().time_s == 2.0
    assert slot.dropped == 1
    assert slot.waiting_since_s() is None


def test_a_rate_below_the_cameras_is_kept_on_average() -> None:
    slot = FrameSlot(target_fps=5, lossless=False)
    camera_s = [n / 25 + 0.004 * (n % 3) for n in range(250)]  # 10 s at 25 frames/s, with jitter
    taken = [slot.take().time_s for time_s in camera_s if slot.put(frame(time_s))]

    assert 49 <= len(taken) <= 51
    assert slot.dropped == 0


def test_a_pause_is_not_made_up_for_by_a_burst() -> None:
    slot = FrameSlot(target_fps=5, lossless=False)
    slot.put(frame(0.0))
    slot.take()

    taken = [slot.take().time_s for n in range(25) if slot.put(frame(60 + n / 25))]

    assert len(taken) == 5


def test_time_that_runs_backwards_does_not_stop_the_lane() -> None:
    slot = FrameSlot(target_fps=5, lossless=False)
    slot.put(frame(1000.0))
    slot.take()

    assert slot.put(frame(3.0))
    assert slot.take().time_s == 3.0
    assert not slot.put(frame(3.1))


def test_a_lossless_slot_makes_the_reader_wait() -> None:
    slot = FrameSlot(target_fps=None, lossless=True)
    seen: list[float] = []
    reader = threading.Thread(target=lambda: [slot.put(frame(float(n))) for n in range(50)])
    reader.start()
    while len(seen) < 50:
        if slot.waiting_since_s() is not None:
            seen.append(slot.take().time_s)
    reader.join(5)

    assert seen == [float(n) for n in range(50)]
    assert slot.dropped == 0


def test_closing_lets_a_waiting_reader_go() -> None:
    slot = FrameSlot(target_fps=None, lossless=True)
    slot.put(frame(0.0))
    reader = threading.Thread(target=slot.put, args=(frame(1.0),))
    reader.start()

    slot.close()
    reader.join(5)

    assert not reader.is_alive()
    assert slot.waiting_since_s() is None


def test_a_camera_of_the_wanted_rate_loses_no_frame_to_its_jitter() -> None:
    slot = FrameSlot(target_fps=5, lossless=False)
    camera_s = [n / 5 + (0.015 if n % 2 else -0.015) for n in range(50)]
    taken = [slot.take().time_s for time_s in camera_s if slot.put(frame(time_s))]

    assert len(taken) == 50
