"""An opened film or camera and the decoder of its first video stream."""

from collections.abc import Mapping
from typing import Final

import av

from detector_worker.streams.frame_stamper import FrameStamper
from detector_worker.streams.stream_errors import stream_error

__all__ = ["VideoInput"]

_SLICES_ONLY: Final = "SLICE"


class VideoInput:
    """Demuxes and decodes with FFmpeg; belongs to one thread and must be closed.

    Pictures from the first damaged one to the next sound key frame are withheld and counted: FFmpeg marks only
    the picture that was hit, not those that are predicted from it.
    """

    def __init__(
        self,
        url: str,
        stamper: FrameStamper,
        *,
        where: str,
        options: Mapping[str, str],
        timeout: tuple[float, float] | None = None,
    ) -> None:
        """Open it.

        Args:
            url: What FFmpeg opens; may hold a password.
            stamper: Counts what is withheld.
            where: How errors name it, without the password.
            options: FFmpeg's.
            timeout: Deadlines of opening and of each read, seconds; None: none.

        Raises:
            StreamError: It holds no video that can be decoded.
            av.FFmpegError: Whatever else; its text quotes ``url``.
        """
        self._container = av.open(url, "r", options=dict(options), timeout=timeout)
        try:
            self.stream = self._video_stream(where)
        except BaseException:
            self._container.close()
            raise
        self.stream.thread_type = _SLICES_ONLY  # frame threads would hold pictures back
        self.stream.codec_context.thread_count = 1
        self._packets = self._container.demux(self.stream)
        self._is_damaged = False
        self._stamper = stamper

    def read(self) -> list[av.VideoFrame] | None:
        """Read one packet and return the sound pictures that it led to; None: there are no more packets.

        Raises:
            av.FFmpegError: It could not be read; its text quotes the address.
        """
        packet = next(self._packets, None)
        if packet is None:
            return None
        try:
            pictures = self.stream.codec_context.decode(packet)
        except av.FFmpegError:
            self._is_damaged = True  # this packet only; the decoder goes on
            self._stamper.damaged += 1
            return []
        return [picture for picture in pictures if self._is_sound(picture)]

    def close(self) -> None:
        """Let go of the camera: without this it keeps a session for a viewer who has left."""
        self._container.close()

    def _video_stream(self, where: str) -> av.VideoStream:
        if not self._container.streams.video:
            raise stream_error("codec", "It sends no video", where=where)
        stream = self._container.streams.video[0]
        if stream.codec_context is None:
            raise stream_error("codec", "No decoder knows its video format", where=where)
        return stream

    def _is_sound(self, picture: av.VideoFrame) -> bool:
        if picture.is_corrupt:
            self._is_damaged = True
        elif picture.key_frame:
            self._is_damaged = False
        self._stamper.damaged += self._is_damaged
        return not self._is_damaged
