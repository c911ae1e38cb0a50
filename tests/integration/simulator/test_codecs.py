"""What FFmpeg sees of films in each codec, over RTSP."""

import asyncio
import base64
import re
from pathlib import Path

import av
import pytest
from support.rtsp_client import watch
from support.tiny_clip import write_tiny_clip

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.payloads import Codec
from detector_worker.simulator.rtsp_server import RtspServer, same_film
from detector_worker.simulator.sdp import sdp_of_clip

CODECS = [
    ("libx264", "mp4", Codec.H264),
    ("libx265", "mp4", Codec.H265),
    ("libx265", "ts", Codec.H265),
    ("mjpeg", "mkv", Codec.JPEG),
]


def codec_of(url: str) -> str:
    with av.open(url, options={"rtsp_transport": "tcp"}, timeout=(5, 5)) as container:
        return container.streams.video[0].codec_context.name


@pytest.mark.parametrize(("encoder", "ending", "codec"), CODECS)
async def test_every_picture_arrives_in_order_and_sound_through_the_rounds(
    tmp_path: Path, encoder: str, ending: str, codec: Codec
) -> None:
    path = tmp_path / f"clip.{ending}"
    clip = await asyncio.to_thread(
        lambda: Clip.load(write_tiny_clip(path, seconds=1, fps=20, codec=encoder, b_frames=0).path)
    )
    async with RtspServer(same_film(clip)) as server:
        seen = await asyncio.to_thread(watch, server.urls["cam-1"], 45)

        assert await asyncio.to_thread(codec_of, server.urls["cam-1"]) == codec
    assert [picture.number for picture in seen] == [index % 20 for index in range(45)]
    assert {picture.wh for picture in seen} == {(640, 384)}
    assert not any(picture.is_corrupt for picture in seen)


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
async def test_reordered_pictures_arrive_in_order(tmp_path: Path, encoder: str) -> None:
    path = tmp_path / "clip.mp4"
    clip = await asyncio.to_thread(
        lambda: Clip.load(write_tiny_clip(path, seconds=1, fps=20, codec=encoder, b_frames=2).path)
    )
    async with RtspServer(same_film(clip)) as server:
        seen = await asyncio.to_thread(watch, server.urls["cam-1"], 18)

    assert [picture.number for picture in seen] == list(range(18))


def test_parameter_sets_of_h265_come_before_each_key_frame(tmp_path: Path) -> None:
    clip = Clip.load(write_tiny_clip(tmp_path / "clip.mp4", seconds=2, gop=10, codec="libx265").path)

    kinds = [{payload[0] >> 1 for payload in picture.payloads} for picture in clip.pictures if picture.is_key]
    assert len(kinds) == 2
    assert all({32, 33, 34} <= found for found in kinds)
    assert [unit[0] >> 1 for unit in clip.parameter_sets] == [32, 33, 34]


def test_the_description_of_h265_tells_each_parameter_set(tmp_path: Path) -> None:
    clip = Clip.load(write_tiny_clip(tmp_path / "clip.mp4", seconds=1, codec="libx265").path)

    told = dict(re.findall(r"sprop-(\w+)=([\w+/=]+)", sdp_of_clip("cam-1", clip)))

    assert {kind: base64.b64decode(one)[0] >> 1 for kind, one in told.items()} == {"vps": 32, "sps": 33, "pps": 34}


def test_motion_jpeg_too_large_for_rtp_is_refused(tmp_path: Path) -> None:
    path = write_tiny_clip(tmp_path / "large.mkv", seconds=0.2, codec="mjpeg", wh=(2048, 384)).path

    with pytest.raises(ConfigurationError, match="2040"):
        Clip.load(path)
