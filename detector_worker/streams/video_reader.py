"""What films and RTSP cameras have in common: FFmpeg opens, demuxes and decodes them."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Final

import av

from detector_worker.core.clock import Clock
from detector_worker.core.frame import Frame
from detector_worker.streams.stream_errors import stream_error, translated

__all__ = ["VideoReader"]

_SLICES_ONLY: Final = "SLICE"


class VideoReader(ABC):
    """Numbered frames of one source over all of its connections; belongs to one thread and must be closed.

    Pictures from the first damaged one to the next sound key frame are withheld and counted: FFmpeg marks only
    the picture that was hit, not those that are predicted from it.
    """

    def __init__(self, camera_id: str, stopping: threading.Event, *, where: str, clock: Clock) -> None:
        """Prepare; nothing is opened yet. ``where`` names the source in errors, without its password."""
        self.damaged = 0
        """Pictures withheld so far."""
        self._camera_id, self._stopping, self._where, self._clock = camera_id, stopping, where, clock
        self._numbers = count(1)
        self._container: av.container.InputContainer | None = None
        self._pictures: Iterator[av.VideoFrame] = iter(())

    @abstractmethod
    def connect(self) -> None:
        """Open it; raise StreamError where that fails."""

    @abstractmethod
    def _times(self, picture: av.VideoFrame) -> tuple[float, float]:
        """Return `Frame`'s ``time_s`` and ``captured_at``."""

    def read_frame(self) -> Frame | None:
        """Wait for the next sound picture; None at the end, or once ``stopping`` is set."""
        picture = self._next_picture()
        if picture is None:
            return None
        time_s, captured_at = self._times(picture)
        return Frame(
            picture,
            camera_id=self._camera_id,
            frame_id=next(self._numbers),
            time_s=time_s,
            captured_at=captured_at,
        )

    def handle_reconnection(self) -> None:
        """Close what is open and connect anew."""
        self.close()
        self.connect()

    def close(self) -> None:
        """Let go of the camera: without this it keeps a session for a viewer who has left."""
        self._pictures = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None

    def _next_picture(self) -> av.VideoFrame | None:
        return translated(lambda: next(self._pictures, None), where=self._where)

    def _packets(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator["av.Packet[av.VideoStream]"]:
        return container.demux(stream)

    def _open(self, url: str, options: Mapping[str, str], timeout: tuple[float, float] | None = None) -> av.VideoStream:
        """Open with FFmpeg; its errors, of type av.FFmpegError, quote the URL. ``timeout``: of opening, of reading."""
        self._container = av.open(url, "r", options=dict(options), timeout=timeout)
        stream = next(iter(self._container.streams.video), None)
        if stream is None or stream.codec_context is None:
            self.close()
            raise stream_error("codec", where=self._where)
        stream.thread_type = _SLICES_ONLY  # frame threads would hold pictures back
        stream.codec_context.thread_count = 1
        self._pictures = self._sound_pictures(self._container, stream)
        return stream

    def _sound_pictures(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[av.VideoFrame]:
        is_damaged = False
        for packet in self._packets(container, stream):
            if self._stopping.is_set():
                return
            try:
                pictures = stream.codec_context.decode(packet)
            except av.FFmpegError:
                is_damaged = True  # this packet only; the decoder goes on
                self.damaged += 1
                continue
            for picture in pictures:
                is_damaged = picture.is_corrupt or (is_damaged and not picture.key_frame)
                self.damaged += is_damaged
                if not is_damaged:
                    yield picture
