"""A film made on the spot, of which everything is known: where its squares are, and each picture's number."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final, Literal

import av
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SQUARE_PX",
    "Square",
    "TinyClip",
    "read_frame_number",
    "write_large_clip",
    "write_noisy_clip",
    "write_tiny_clip",
]

SQUARE_PX: Final = 64
_CELL_PX: Final = 16
_NUMBER_BITS: Final = 16
_BGR: Final = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}


@dataclass(frozen=True)
class Square:
    """A plain square that moves evenly; absent before ``first_s`` and from ``last_s`` on."""

    color: Literal["red", "green", "blue"]
    start_xy: tuple[float, float]
    """Upper left corner at ``first_s``, pixels."""
    velocity_xy: tuple[float, float] = (0.0, 0.0)
    """Pixels per second."""
    first_s: float = 0.0
    last_s: float = float("inf")

    def xyxy_at(self, time_s: float) -> tuple[int, int, int, int] | None:
        """Return its box, or None while it is absent; it may reach over the edge of the picture."""
        if not self.first_s <= time_s < self.last_s:
            return None
        x, y = (
            round(start + speed * (time_s - self.first_s))
            for start, speed in zip(self.start_xy, self.velocity_xy, strict=True)
        )
        return x, y, x + SQUARE_PX, y + SQUARE_PX


@dataclass(frozen=True)
class TinyClip:
    """The film and the truth about it."""

    path: Path
    wh: tuple[int, int]
    fps: int
    frames: int
    squares: tuple[Square, ...]

    def boxes_at(self, frame_number: int) -> list[tuple[str, tuple[int, int, int, int]]]:
        """Return colour and box of each square that is present in a picture."""
        boxes = ((square.color, square.xyxy_at(frame_number / self.fps)) for square in self.squares)
        return [(color, xyxy) for color, xyxy in boxes if xyxy is not None]


def write_tiny_clip(
    path: Path,
    *,
    squares: Sequence[Square] = (Square("red", (32.0, 160.0), (96.0, 0.0)),),
    wh: tuple[int, int] = (640, 384),
    fps: int = 10,
    seconds: float = 4.0,
    gop: int = 10,
    b_frames: int = 0,
    codec: str = "libx264",
) -> TinyClip:
    """Write a film: a still, faintly textured grey background, the squares, and each picture's number.

    The number stands in the upper left corner as 16 cells of 16 x 16 px, black or white, so keep squares away
    from there. Saturated squares on grey are all that the tiny detector finds.
    """
    clip = TinyClip(path, wh, fps, round(seconds * fps), tuple(squares))
    background = _background(wh)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = wh
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = Fraction(1, fps)
        if codec == "libx264":
            stream.options = {"preset": "veryfast", "crf": "18", "bf": str(b_frames), "sc_threshold": "0"}
        if codec == "libx265":
            x265 = f"log-level=none:bframes={b_frames}:scenecut=0"
            stream.options = {"preset": "ultrafast", "crf": "18", "x265-params": x265}
        for number in range(clip.frames):
            image = _draw(background, clip.boxes_at(number), number)
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return clip


def write_noisy_clip(path: Path, *, frames: int = 12, gop: int = 12) -> Path:
    """Write a film of pure noise, 640x480 at 60 a second: about 2 MB or 150 RTP packets in each dozen pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=60)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        stream.codec_context.gop_size = gop
        stream.options = {"preset": "ultrafast", "qp": "1"}
        rng = np.random.default_rng(1)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (480, 640, 3), np.uint8), format="bgr24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_large_clip(path: Path, *, codec: str = "libx264") -> Path:
    """Write a film of one plain picture of 6400x6272: a little more than is allowed."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = 6400, 6272
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = {"preset": "ultrafast"} if codec == "libx264" else {}
        frame = av.VideoFrame(6400, 6272, stream.pix_fmt)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts = 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_frame_number(image: NDArray[np.uint8]) -> int:
    """Read the number back out of a picture, shape (H, W, 3), uint8 BGR."""
    middle = _CELL_PX // 2
    cells = image[middle, middle : middle + _CELL_PX * _NUMBER_BITS : _CELL_PX].mean(axis=1) > 127
    return int(sum(1 << bit for bit, is_white in enumerate(cells) if is_white))


def _background(wh: tuple[int, int]) -> NDArray[np.uint8]:
    width, height = wh
    coarse = np.random.default_rng(7).integers(104, 120, (height // 8 + 1, width // 8 + 1, 1), np.uint8)
    return np.tile(coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width], (1, 1, 3))


def _draw(
    background: NDArray[np.uint8], boxes: list[tuple[str, tuple[int, int, int, int]]], number: int
) -> NDArray[np.uint8]:
    image = background.copy()
    for color, (x1, y1, x2, y2) in boxes:
        image[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)] = _BGR[color]
    for bit in range(_NUMBER_BITS):
        image[:_CELL_PX, bit * _CELL_PX : (bit + 1) * _CELL_PX] = 255 if number >> bit & 1 else 0
    return image
