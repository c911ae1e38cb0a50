"""A film on this machine, read as a camera whose time is the film's own."""

import threading
from pathlib import Path
from typing import Final

import av

from detector_worker.core.clock import Clock
from detector_worker.streams.stream_errors import translated
from detector_worker.streams.video_reader import VideoReader

__all__ = ["FileReader", "count_frames"]

_FALLBACK_FPS: Final = 25.0
_OPTIONS: Final = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,flv,h264,hevc,m4v",  # no playlist, which could name other files
}


class FileReader(VideoReader):
    """Reads every picture of a film, as fast as they are taken."""

    def __init__(self, path: Path, camera_id: str, stopping: threading.Event, *, clock: Clock) -> None:
        super().__init__(camera_id, stopping, where=f"film {path.name}", clock=clock)
        self._url = _file_url(path)

    def connect(self) -> None:
        """Open the film; it is taken to start now."""
        stream = translated(lambda: self._open(self._url, _OPTIONS), where=self._where)
        self._frame_s = 1 / float(stream.average_rate or _FALLBACK_FPS)
        self._origin_s = float((stream.start_time or 0) * (stream.time_base or 0))
        self._time_s = -self._frame_s
        self._started_at = self._clock.utc_s()

    def _times(self, picture: av.VideoFrame) -> tuple[float, float]:
        """Media time, which never runs backwards even where the film's does."""
        if picture.time is None:
            self._time_s += self._frame_s
        else:
            self._time_s = max(self._time_s, picture.time - self._origin_s)
        return self._time_s, self._started_at + self._time_s


def count_frames(path: Path) -> int | None:
    """Return how many pictures a film says it has; None where it does not say, or cannot be read."""
    try:
        with av.open(_file_url(path), options=_OPTIONS) as container:
            return container.streams.video[0].frames or None
    except (av.FFmpegError, IndexError):
        return None


def _file_url(path: Path) -> str:
    """Else FFmpeg would take a name such as ``concat:a|b`` for a protocol."""
    return f"file:{path.absolute()}"
