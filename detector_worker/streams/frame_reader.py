"""The seam to cameras, and the camera that speaks RTSP."""

import threading
from typing import Final, Literal, Protocol

import av

from detector_worker.core.addresses import Address
from detector_worker.core.clock import Clock
from detector_worker.core.frame import Frame
from detector_worker.streams.snapshot_reader import HTTPSnapshotReader
from detector_worker.streams.stream_errors import classify, diagnose, stream_error
from detector_worker.streams.video_reader import VideoReader

__all__ = ["FrameSource", "HTTPSnapshotReader", "RTSPReader"]

_DIAGNOSIS_S: Final = 1.0
_TRANSPORT: Final = {None: "tcp+udp", "tcp": "tcp", "udp": "udp"}
_OPTIONS: Final = {
    "rtsp_flags": "prefer_tcp",
    "allowed_media_types": "video",
    "fpsprobesize": "0",  # else FFmpeg watches 25 pictures to guess the rate; never "nobuffer", it loses them
    "probesize": "5000",
    "protocol_whitelist": "rtsp,rtsps,rtp,tcp,tls,udp",
    "format_whitelist": "rtsp,sdp,rtp",
}


class FrameSource(Protocol):
    """One camera's connection. Owned by one thread; every method may raise StreamError."""

    def handle_reconnection(self) -> None:
        """Connect anew, whatever was open before."""
        ...

    def read_frame(self) -> Frame | None:
        """Wait for the next frame. None: the reader is stopping; a camera that ends raises."""
        ...

    def close(self) -> None:
        """Let go of everything; may be called at any time, and again."""
        ...


class RTSPReader(VideoReader):
    """Reads a camera with FFmpeg: over TCP first, over UDP where the camera refuses that.

    The opening time holds for all of FFmpeg's opening, and again for its look at the format; the reading time
    for each packet as a whole, so that dripping bytes do not help a camera.
    """

    def __init__(
        self,
        address: Address,
        camera_id: str,
        stopping: threading.Event,
        *,
        clock: Clock,
        transport: Literal["tcp", "udp"] | None = None,
        open_timeout_s: float = 7.0,
        read_timeout_s: float = 9.0,
    ) -> None:
        super().__init__(camera_id, stopping, where=f"camera {camera_id}, {address}", clock=clock)
        self._address = address
        self._options = {**_OPTIONS, "rtsp_transport": _TRANSPORT[transport]}
        self._open_timeout_s, self._read_timeout_s = open_timeout_s, read_timeout_s

    def connect(self) -> None:
        """Open the camera.

        FFmpeg calls its own deadline, an unknown host and a closed connection "invalid data": we look closer.
        """
        started_s = self._clock.monotonic_s()
        try:
            self._open(self._address.secret(), self._options, (self._open_timeout_s, self._read_timeout_s))
        except av.FFmpegError as exc:
            error_class = classify(exc)
        else:
            return
        left_s = self._open_timeout_s - (self._clock.monotonic_s() - started_s)
        if left_s <= 0:
            error_class = "timeout"
        elif error_class in {"corrupt", "unreachable"}:
            error_class = diagnose(self._address, timeout_s=min(_DIAGNOSIS_S, left_s))
        raise stream_error(error_class, where=self._where)  # here, for FFmpeg's error quotes the password

    def read_frame(self) -> Frame | None:
        """Wait for the next sound picture; None once the reader is stopping."""
        frame = super().read_frame()
        if frame is None and not self._stopping.is_set():
            raise stream_error("ended", where=self._where)
        return frame

    def _times(self, picture: av.VideoFrame) -> tuple[float, float]:
        """The time of arrival: cameras' own clocks cannot be trusted."""
        return self._clock.monotonic_s(), self._clock.utc_s()
