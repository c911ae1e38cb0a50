"""A clip of what was seen: boxes, tracks and what the branches said."""

import colorsys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Final, Self, cast

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.engine.engine import LaneResult
from detector_worker.engine.lane import Analysed

__all__ = ["Annotator"]

_TICKS_PER_S: Final = 90_000
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX


class Annotator:
    """Draws the analysed frames and encodes them, paced as they were. One thread at a time draws."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._container = None if path is None else _open(path)
        self._stream: VideoStream | None = None
        self._labels: dict[int, str] = {}

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
        said = [
            str(label)
            for branch in result.branches.values()
            for key, label in branch.items()
            if key not in {"confidence", "error", "type"} and label is not None
        ]
        for detection in result.detections[:1]:
            if detection.track_id is not None:
                self._labels[detection.track_id] = " ".join(said)

    def draw(self, analysed: Analysed) -> None:
        """Draw and encode one frame."""
        if self._container is None:
            return
        image = analysed.frame.bgr().copy()
        detections = analysed.detections
        for row, detection in enumerate(detections.results(analysed.frame.captured_at)):
            track_id = detection.track_id
            if track_id is None:
                continue
            label = f"{track_id} {detection.class_name} {self._labels.get(track_id, '')}".strip()
            _draw_box(image, detections.xyxy[row].astype(int), label, _colour(track_id))
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


def _colour(track_id: int) -> tuple[int, int, int]:
    """BGR, far from those of the neighbouring ids."""
    red, green, blue = colorsys.hsv_to_rgb(track_id * 0.618 % 1, 0.9, 1.0)
    return int(blue * 255), int(green * 255), int(red * 255)


def _draw_box(image: NDArray[np.uint8], xyxy: NDArray[np.int_], label: str, colour: tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = xyxy.tolist()
    scale = max(0.4, image.shape[0] / 900)
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, 2)
    (width, height), _ = cv2.getTextSize(label, _FONT, scale, 1)
    top = max(y1, height + 6)
    cv2.rectangle(image, (x1, top - height - 6), (x1 + width + 4, top), colour, cv2.FILLED)
    cv2.putText(image, label, (x1 + 2, top - 4), _FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
