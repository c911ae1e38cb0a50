"""What cameras of several kinds cost the process that reads them."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Final

import av
from support.camera_process import CameraProcess
from support.cameras import StatusLog

from detector_worker.core.entities import StreamState
from detector_worker.core.frame import Frame
from detector_worker.simulator.film import FilmOrder, make_film
from detector_worker.streams.stream_manager import StreamConfig, StreamManager

__all__ = ["KINDS", "REFERENCE", "Cost", "Kind", "measure_costs"]

_FPS: Final = 25
_SETTLE_S: Final = 1.5
_GOP_S: Final = 2
_720P: Final = (1280, 720)
_4_MEGAPIXELS: Final = (2560, 1440)
_H264: Final = {"preset": "veryfast", "tune": "zerolatency", "crf": "26"}
_H265: Final = {"preset": "ultrafast", "tune": "zerolatency", "crf": "28", "x265-params": "log-level=none"}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of camera."""

    name: str
    wh: tuple[int, int] = _720P
    codec: str = "libx264"
    is_http: bool = False
    suffix: str = ""
    """Of its address."""
    interval_s: float = 0.2
    """Between two pictures that are taken; over HTTP only."""


REFERENCE: Final = Kind("H.264, RTSP")
KINDS: Final = (
    REFERENCE,
    Kind("H.265, RTSP", codec="libx265"),
    Kind("Motion JPEG, RTSP", codec="mjpeg"),
    Kind("H.264 of 4 megapixels, RTSP", wh=_4_MEGAPIXELS),
    Kind("Motion JPEG, HTTP", is_http=True, suffix=".mjpeg"),
    Kind("JPEG snapshots, HTTP", is_http=True),
)


@dataclass(slots=True)
class Cost:
    """What was measured of one kind, in each round."""

    kind: Kind
    frames_per_s: list[float] = field(default_factory=list)
    """Pictures that were handed to the analysis."""
    cpu_ms_per_s: list[float] = field(default_factory=list)
    """Of the reading process, for each second of one camera."""
    wh: tuple[int, int] = (0, 0)

    @property
    def rate(self) -> float:
        """Pictures a second, the middle round's."""
        return median(self.frames_per_s)

    @property
    def ms_per_frame(self) -> float:
        """CPU time for each picture, the middle round's."""
        return median(cpu / frames for cpu, frames in zip(self.cpu_ms_per_s, self.frames_per_s, strict=True))


async def measure_costs(folder: Path, *, rounds: int, seconds: float) -> list[Cost]:
    """Read one camera of each kind after the other, in several rounds.

    The cameras show one rendered street scene, and run in a process of their own.
    """
    films = await asyncio.to_thread(_write_films, folder)
    rtsp = {_camera_id(kind): films[kind.name] for kind in KINDS if not kind.is_http}
    snapshots = {_camera_id(kind): films[kind.name] for kind in KINDS if kind.is_http}
    costs = [Cost(kind) for kind in KINDS]
    async with CameraProcess(rtsp, snapshots=snapshots) as cameras:
        for _ in range(rounds):
            for cost in costs:
                await _measure(cost, cameras, seconds)
    return costs


async def _measure(cost: Cost, cameras: CameraProcess, seconds: float) -> None:
    kind, frames, statuses = cost.kind, _Frames(), StatusLog()
    manager = StreamManager(notify=statuses)
    config = StreamConfig(
        cameras.url(_camera_id(kind)) + kind.suffix,
        stream_type="http_snapshot" if kind.is_http else "rtsp",
        snapshot_interval_s=kind.interval_s,
    )
    try:
        await manager.create_stream("gate", config, "desk;gate", deliver=frames)
        await statuses.wait_for(StreamState.ACTIVE)
        await asyncio.sleep(_SETTLE_S)
        began_s, cpu_s, count = time.monotonic(), time.process_time(), frames.count
        await asyncio.sleep(seconds)
        took_s = time.monotonic() - began_s
        cost.cpu_ms_per_s.append((time.process_time() - cpu_s) * 1000 / took_s)
        cost.frames_per_s.append((frames.count - count) / took_s)
        cost.wh = frames.wh
        assert manager.get_stream_info("gate").error_count == 0
    finally:
        await manager.stop_all_streams()


class _Frames:
    """Counts them; what is done with a picture is not the stream's cost."""

    def __init__(self) -> None:
        self.count = 0
        self.wh = (0, 0)

    def __call__(self, frame: Frame) -> None:
        self.count += 1
        self.wh = frame.wh


def _camera_id(kind: Kind) -> str:
    return "".join(letter for letter in kind.name.lower() if letter.isalnum())


def _write_films(folder: Path) -> dict[str, Path]:
    scene = make_film(FilmOrder(seed=5, camera=1, vehicles=2, fps=_FPS), cache=folder / "scenes").path
    paths: dict[tuple[tuple[int, int], str], Path] = {}
    for kind in KINDS:
        if (kind.wh, kind.codec) not in paths:
            path = folder / f"{_camera_id(kind)}.{'avi' if kind.codec == 'mjpeg' else 'mp4'}"
            _encode(path, scene, kind)
            paths[kind.wh, kind.codec] = path
    return {kind.name: paths[kind.wh, kind.codec] for kind in KINDS}


def _encode(path: Path, scene: Path, kind: Kind, *, seconds: int = 8) -> None:
    width, height = kind.wh
    options = {"libx264": _H264, "libx265": _H265, "mjpeg": {"qmin": "4", "qmax": "4"}}[kind.codec]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(kind.codec, rate=_FPS, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = kind.wh
        stream.pix_fmt = "yuvj420p" if kind.codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = _FPS * _GOP_S
        stream.codec_context.time_base = Fraction(1, _FPS)
        for number, picture in enumerate(islice(_pictures(scene), seconds * _FPS)):
            scaled = picture.reformat(width, height, stream.pix_fmt)
            scaled.pts, scaled.time_base = number, Fraction(1, _FPS)
            container.mux(stream.encode(scaled))
        container.mux(stream.encode(None))


def _pictures(scene: Path) -> Iterator[av.VideoFrame]:
    with av.open(str(scene)) as container:
        yield from container.decode(video=0)
