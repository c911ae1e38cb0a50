from itertools import pairwise
from pathlib import Path

import pytest
from support.assets import assets_dir
from support.tiny_clip import write_tiny_clip

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.simulator.clip import Clip


def test_every_picture_of_a_film_is_kept_with_its_time(tmp_path: Path) -> None:
    clip = Clip.load(write_tiny_clip(tmp_path / "clip.mp4", fps=10, seconds=2).path)

    assert [picture.timestamp for picture in clip.pictures] == [9000 * number for number in range(20)]
    assert clip.duration_s == pytest.approx(2.0)


def test_reordered_pictures_leave_at_an_even_pace(tmp_path: Path) -> None:
    clip = Clip.load(write_tiny_clip(tmp_path / "clip.mp4", fps=10, seconds=2, b_frames=2).path)

    timestamps = [picture.timestamp for picture in clip.pictures]
    assert timestamps != sorted(timestamps)
    assert [picture.send_s for picture in clip.pictures] == pytest.approx([number / 10 for number in range(20)])


def test_a_client_starts_at_the_last_key_frame(tmp_path: Path) -> None:
    clip = Clip.load(write_tiny_clip(tmp_path / "clip.mp4", fps=10, seconds=3, gop=10).path)

    assert [clip.key_at(time_s) for time_s in (-1, 0, 0.99, 1.05, 2.9)] == [0, 0, 0, 10, 20]


def test_parameter_sets_come_before_each_key_frame(tmp_path: Path) -> None:
    clip = Clip.load(write_tiny_clip(tmp_path / "clip.mp4", seconds=2, gop=10).path)

    kinds = [{payload[0] & 31 for payload in picture.payloads[:3]} for picture in clip.pictures if picture.is_key]
    assert all({7, 8} <= found for found in kinds)
    assert {unit[0] & 31 for unit in clip.parameter_sets} == {7, 8}


def test_another_codec_is_encoded_once(tmp_path: Path) -> None:
    clip = Clip.load(write_tiny_clip(tmp_path / "clip.mp4", codec="mpeg4", fps=10, seconds=3).path)

    assert len(clip.pictures) == 30
    assert [picture.send_s for picture in clip.pictures] == pytest.approx([number / 10 for number in range(30)])


def test_a_film_begins_with_its_first_key_frame() -> None:
    clip = Clip.load(assets_dir() / "clip" / "street_parked.mp4")

    assert clip.pictures[0].is_key
    gaps = {round(after.send_s - before.send_s, 2) for before, after in pairwise(clip.pictures)}
    assert len(gaps) > 1  # its rate varies, and so does the pace


@pytest.mark.parametrize("content", [b"", b"no film at all"])
def test_what_is_no_film_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "holiday.mp4"
    path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"holiday\.mp4"):
        Clip.load(path)


def test_an_absent_film_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"holiday\.mp4"):
        Clip.load(tmp_path / "holiday.mp4")
