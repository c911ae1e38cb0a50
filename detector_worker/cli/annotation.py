"""A clip of what was seen: boxes, tracks and what the branches said."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Final, Self, cast

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.detection.overlay import TrackSayings, draw_overlay
from detector_worker.engine.engine import LaneResult
from detector_worker.engine.lane import Analysed

__all__ = ["Annotator"]

_TICKS_PER_S: Final = 90_000


class Annotator:
    """Draws the analysed frames and encodes them, paced as they were. One thread at a time draws."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._container = None if path is None else _open(path)
        self._stream: VideoStream | None = None
        self._sayings = TrackSayings()

    @classmethod
    @contextmanager
    def writing_to(cls, path: Path | None) -> Iterator[Self]:
        """Write a clip; with None as the path nothing is drawn.

        Raises:
            ConfigurationError: There cannot be such a file.
        """
        annotator = cls(path)
        try:
            yield annotator
        finally:
            annotator._close()

    def note_result(self, result: LaneResult) -> None:
        """From now on the track carries what its branches said."""
        self._sayings.note(result.detections, result.branches)

    def draw(self, analysed: Analysed) -> None:
        """Draw and encode one frame."""
        if self._container is None:
            return
        image = draw_overlay(analysed.frame, analysed.detections, self._sayings.by_track)
        self._encode(image, analysed.frame.time_s)

    def _encode(self, image: NDArray[np.uint8], time_s: float) -> None:
        if self._container is None:
            return
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        if self._stream is None:
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self._stream = cast("VideoStream", self._container.add_stream(codec, rate=30))
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, _TICKS_PER_S)
        frame = av.VideoFrame.from_ndarray(image[:height, :width], format="bgr24")
        frame.pts, frame.time_base = round(time_s * _TICKS_PER_S), Fraction(1, _TICKS_PER_S)
        self._container.mux(self._stream.encode(frame))

    def _close(self) -> None:
        if self._container is not None:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()


def _open(path: Path) -> "av.container.OutputContainer":
    try:
        return av.open(str(path), "w")
    except (OSError, ValueError) as exc:  # FFmpeg's errors are both
        raise ConfigurationError(
            f"The annotated clip cannot be written: {exc}",
            where=str(path),
            mend="Name a file ending in .mp4 in a folder that can be written.",
        ) from exc
