"""A film on this machine, read as a camera whose time is the film's own."""

import threading
from collections import deque
from pathlib import Path
from typing import Final

import av

from detector_worker.core.clock import Clock
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.streams.frame_stamper import FrameStamper
from detector_worker.streams.stream_errors import classify, stream_error
from detector_worker.streams.video_input import VideoInput

__all__ = ["FileReader", "count_frames"]

_FORMATS: Final = "mov,matroska,avi,mpegts,mpeg,flv,h264,hevc,m4v"
"""Films only: no playlist, which could name further files or addresses."""
_FALLBACK_FPS: Final = 25.0


class FileReader:
    """Reads every picture of a film, as fast as they are taken."""

    def __init__(self, path: Path, stamper: FrameStamper, *, clock: Clock, stopping: threading.Event) -> None:
        """Prepare; nothing is opened yet.

        Args:
            path: The film.
            stamper: Numbers the frames.
            clock: For the wall time at which the film is taken to start.
            stopping: Once set, `read_frame` returns None.
        """
        self._path, self._stamper, self._clock, self._stopping = path, stamper, clock, stopping
        self._where = f"film {path.name}"
        self._input: VideoInput | None = None
        self._waiting: deque[Frame] = deque()
        self._time_s = 0.0

    def connect(self) -> None:
        """Open the film.

        Raises:
            StreamError: It cannot be read or decoded.
        """
        options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
        try:
            self._input = VideoInput(f"file:{self._path.absolute()}", self._stamper, where=self._where, options=options)
        except av.FFmpegError as exc:
            raise self._error(exc) from exc
        stream = self._input.stream
        self._frame_s = 1 / float(stream.average_rate or _FALLBACK_FPS)
        self._origin_s = float((stream.start_time or 0) * (stream.time_base or 0))
        self._time_s = -self._frame_s
        self._started_at = self._clock.utc_s()

    def read_frame(self) -> Frame | None:
        """Return the next picture; None at the film's end.

        Raises:
            StreamError: The film cannot be read further.
        """
        while not self._waiting:
            if self._stopping.is_set() or self._input is None:
                return None
            try:
                pictures = self._input.read()
            except av.FFmpegError as exc:
                raise self._error(exc) from exc
            if pictures is None:
                return None
            self._waiting.extend(self._stamp(picture) for picture in pictures)
        return self._waiting.popleft()

    def handle_reconnection(self) -> None:
        """Begin again at the film's first picture."""
        self.close()
        self.connect()

    def close(self) -> None:
        """Close the film."""
        self._waiting.clear()
        if self._input is not None:
            self._input.close()
            self._input = None

    def _stamp(self, picture: av.VideoFrame) -> Frame:
        """Give it its media time, which never runs backwards even where the film's does."""
        shown_s = None if picture.time is None else picture.time - self._origin_s
        self._time_s = self._time_s + self._frame_s if shown_s is None else max(self._time_s, shown_s)
        return self._stamper.stamp(picture, time_s=self._time_s, captured_at=self._started_at + self._time_s)

    def _error(self, exc: av.FFmpegError) -> StreamError:
        return stream_error(classify(exc), f"FFmpeg: {exc.strerror}", where=self._where)


def count_frames(path: Path) -> int | None:
    """Return how many pictures a film says it has; None where it does not say, or cannot be read."""
    try:
        with av.open(f"file:{path.absolute()}", options={"protocol_whitelist": "file"}) as container:
            return container.streams.video[0].frames or None
    except (av.FFmpegError, IndexError):
        return None
