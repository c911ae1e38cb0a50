import re
import threading
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from support.assets import assets_dir
from support.tiny_clip import Square, read_frame_number, write_large_clip, write_tiny_clip

from detector_worker.core.clock import SystemClock
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.streams.file_reader import FileReader


def _reader(path: Path, stopping: threading.Event | None = None) -> FileReader:
    return FileReader(path, "film", stopping or threading.Event(), clock=SystemClock())


def _read_all(path: Path) -> list[Frame]:
    reader = _reader(path)
    reader.connect()
    try:
        return list(iter(reader.read_frame, None))
    finally:
        reader.close()


@pytest.fixture(scope="module")
def too_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_large_clip(tmp_path_factory.mktemp("large") / "film.h264")


@pytest.mark.parametrize("b_frames", [0, 2])
def test_every_picture_comes_in_order(tmp_path: Path, b_frames: int) -> None:
    frames = _read_all(write_tiny_clip(tmp_path / "clip.mp4", seconds=3, fps=10, b_frames=b_frames).path)

    assert [read_frame_number(frame.bgr()) for frame in frames] == list(range(30))
    assert [frame.frame_id for frame in frames] == list(range(1, 31))


def test_times_are_those_of_the_film(tmp_path: Path) -> None:
    frames = _read_all(write_tiny_clip(tmp_path / "clip.mp4", seconds=1, fps=10).path)

    assert [frame.time_s for frame in frames] == pytest.approx([number / 10 for number in range(10)])
    assert frames[-1].captured_at - frames[0].captured_at == pytest.approx(0.9)


def test_a_film_of_varying_rate_keeps_its_times() -> None:
    frames = _read_all(assets_dir() / "clip" / "street_parked.mp4")

    assert len(frames) == 734
    steps = [after.time_s - before.time_s for before, after in pairwise(frames)]
    assert min(steps) > 0
    assert max(steps) > 2 * min(steps)


def test_it_begins_again_when_asked(tmp_path: Path) -> None:
    reader = _reader(write_tiny_clip(tmp_path / "clip.mp4", seconds=1).path)
    reader.connect()
    reader.read_frame()
    reader.handle_reconnection()
    frame = reader.read_frame()
    reader.close()

    assert frame is not None
    assert (read_frame_number(frame.bgr()), frame.frame_id) == (0, 2)


def test_it_ends_when_it_is_told_to_stop(tmp_path: Path) -> None:
    stopping = threading.Event()
    reader = _reader(write_tiny_clip(tmp_path / "clip.mp4", seconds=1).path, stopping)
    reader.connect()
    stopping.set()

    assert reader.read_frame() is None
    reader.close()


@pytest.mark.parametrize(
    ("name", "content", "error_class"),
    [
        ("absent.mp4", None, "not_found"),
        ("empty.mp4", b"", "corrupt"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hosts\n#EXT-X-ENDLIST\n", None),
        ("list.ffconcat", b"ffconcat version 1.0\nfile clip.mp4\n", None),
    ],
)
def test_what_is_no_film_is_refused(tmp_path: Path, name: str, content: bytes | None, error_class: str | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(StreamError, match=name) as caught:
        _reader(tmp_path / name).connect()
    assert error_class in (None, caught.value.error_class)


def _assert_too_large(film: Path) -> None:
    with pytest.raises(StreamError, match="at most 40,000,000") as caught:
        _read_all(film)
    assert caught.value.error_class == "corrupt"


def _copy(film: Path, to: Path, *, through: str = "null") -> Path:
    """Copy a film's packets into another container, changed by a filter of bit streams."""
    with av.open(str(film)) as source, av.open(str(to), "w") as target:
        stream = source.streams.video[0]
        passing = BitStreamFilterContext(through, stream)
        written = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            for changed in passing.filter(packet) if packet.size else ():
                changed.stream = written
                target.mux(changed)
    return to


def test_a_film_with_pictures_that_are_too_large_is_refused(tmp_path: Path, too_large: Path) -> None:
    _assert_too_large(too_large)
    _assert_too_large(_copy(too_large, tmp_path / "film.mp4"))
    _assert_too_large(write_large_clip(tmp_path / "film.avi", codec="mjpeg"))


def test_pictures_that_are_too_large_do_not_become_allowed_by_cropping(tmp_path: Path, too_large: Path) -> None:
    cropped = _copy(too_large, tmp_path / "cropped.h264", through="h264_metadata=crop_right=6000:crop_bottom=6000")

    _assert_too_large(cropped)


def test_a_protocol_in_the_name_is_taken_as_a_name(tmp_path: Path) -> None:
    clip = write_tiny_clip(tmp_path / "clip.mp4", seconds=1)

    with pytest.raises(StreamError):
        _reader(Path(f"concat:{clip.path}|{clip.path}")).connect()


def test_damaged_pictures_are_withheld_until_the_next_key_frame(tmp_path: Path) -> None:
    moving = Square("red", (32.0, 100.0), (96.0, 20.0)), Square("blue", (500.0, 250.0), (-80.0, -10.0))
    clip = write_tiny_clip(tmp_path / "clip.h264", seconds=4, fps=10, gop=20, squares=moving)
    sound = [frame.bgr() for frame in _read_all(clip.path)]
    data = bytearray(clip.path.read_bytes())
    slices = [match.start() for match in re.finditer(rb"\x00\x00\x01\x41", data)]
    spoilt = slice(slices[6] + 30, slices[6] + 46)
    data[spoilt] = bytes(byte ^ 0x5A for byte in data[spoilt])
    clip.path.write_bytes(data)
    reader = _reader(clip.path)
    reader.connect()
    delivered = list(iter(reader.read_frame, None))
    reader.close()

    numbers = [read_frame_number(frame.bgr()) for frame in delivered]
    withheld = sorted(set(range(40)) - set(numbers))
    assert 0 < withheld[0] < 10
    assert withheld == list(range(withheld[0], 20))
    assert reader.damaged == len(withheld)
    for number, frame in zip(numbers, delivered, strict=True):
        assert np.array_equal(frame.bgr(), sound[number])
