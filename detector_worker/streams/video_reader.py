"""What films and RTSP cameras have in common: FFmpeg opens, demuxes and decodes them."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Final

import av

from detector_worker.core.clock import Clock
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.streams.picture_size import MAX_PIXELS, too_large
from detector_worker.streams.stream_errors import stream_error, translated

__all__ = ["VideoReader"]

_SLICES_ONLY: Final = "SLICE"
_LIMITS: Final = {"max_pixels": str(MAX_PIXELS)}
"""Of the decoders, which refuse a picture from its header. What it hides by cropping shows with the first one."""


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
        # The limits reach the decoders with which FFmpeg looks at the format as well.
        self._container = av.open(url, "r", options={**options, **_LIMITS}, timeout=timeout)
        stream = next(iter(self._container.streams.video), None)
        if stream is None or stream.codec_context is None:
            self.close()
            raise stream_error("codec", where=self._where)
        stream.thread_type = _SLICES_ONLY  # frame threads would hold pictures back
        stream.codec_context.thread_count = 1
        stream.codec_context.options = _LIMITS
        if (error := self._size_error(stream.codec_context)) is not None:
            self.close()
            raise error
        self._pictures = self._sound_pictures(self._container, stream)
        return stream

    def _sound_pictures(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[av.VideoFrame]:
        is_damaged = False
        for packet in self._packets(container, stream):
            if self._stopping.is_set():
                return
            pictures: list[av.VideoFrame] | None = None
            is_over_limit = False
            try:
                pictures = stream.codec_context.decode(packet)
            except av.FFmpegError as exc:
                is_over_limit = isinstance(exc, av.error.ArgumentError) and not stream.codec_context.width
            if (error := self._size_error(stream.codec_context, is_over_limit=is_over_limit)) is not None:
                raise error
            if pictures is None:
                is_damaged = True  # this packet only; the decoder goes on
                self.damaged += 1
                continue
            for picture in pictures:
                is_damaged = picture.is_corrupt or (is_damaged and not picture.key_frame)
                self.damaged += is_damaged
                if not is_damaged:
                    yield picture

    def _size_error(self, decoder: av.VideoCodecContext, *, is_over_limit: bool = False) -> StreamError | None:
        """Return the error where a decoder has met pictures that are too large; it forgets the size of some."""
        for wh in ((decoder.width, decoder.height), (decoder.coded_width, decoder.coded_height)):
            if wh[0] * wh[1] > MAX_PIXELS:
                return too_large(wh, where=self._where)
        return too_large(None, where=self._where) if is_over_limit else None
