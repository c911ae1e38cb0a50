from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.tiny_clip import read_frame_number, write_tiny_clip

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.still_pictures import FilmStills, Still


@pytest.fixture
def stills(tmp_path: Path) -> Iterator[FilmStills]:
    clip = Clip.load(write_tiny_clip(tmp_path / "clip.mp4", seconds=20, fps=2, gop=4, b_frames=1).path)
    opened = FilmStills(clip)
    yield opened
    opened.close()


def number_of(still: Still) -> int:
    image = cv2.imdecode(np.frombuffer(still.data, np.uint8), cv2.IMREAD_COLOR)
    return read_frame_number(np.asarray(image, np.uint8))


@pytest.mark.parametrize("moments_s", [[0, 0.4, 0.5, 3.9], [19.5, 0.0, 19.9], [7, 6.5, 18, 2]])
def test_the_picture_of_any_moment_is_found_wherever_it_was_before(stills: FilmStills, moments_s: list[float]) -> None:
    assert [number_of(stills.at(moment_s, "png")) for moment_s in moments_s] == [int(at * 2) for at in moments_s]


def test_a_picture_is_encoded_once_for_each_format(stills: FilmStills) -> None:
    first = stills.at(1.0, "jpeg")

    assert stills.at(1.4, "jpeg") is first
    assert stills.at(1.4, "png") is stills.at(1.0, "png")
    assert stills.at(1.5, "jpeg") is not first


def test_another_picture_has_another_tag(stills: FilmStills) -> None:
    assert stills.at(1.0, "jpeg").etag != stills.at(1.5, "jpeg").etag
