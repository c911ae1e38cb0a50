"""The seam to cameras, and the camera that speaks RTSP."""

import threading
from collections import deque
from typing import Final, Literal, Protocol

import av

from detector_worker.core.addresses import Address
from detector_worker.core.clock import Clock
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.streams.file_reader import FileReader
from detector_worker.streams.frame_stamper import FrameStamper
from detector_worker.streams.snapshot_reader import HTTPSnapshotReader
from detector_worker.streams.stream_errors import classify, diagnose, stream_error
from detector_worker.streams.video_input import VideoInput

__all__ = ["FileReader", "FrameSource", "HTTPSnapshotReader", "RTSPReader"]

_DIAGNOSIS_S: Final = 1.0
_TRANSPORT: Final = {None: "tcp+udp", "tcp": "tcp", "udp": "udp"}


class FrameSource(Protocol):
    """One connection to one camera or file. Owned by one thread; every method may raise StreamError."""

    def connect(self) -> None:
        """Open it; called once, before anything is read."""
        ...

    def read_frame(self) -> Frame | None:
        """Wait for the next frame. None: a file has ended, or the reader is stopping; a camera never just ends."""
        ...

    def handle_reconnection(self) -> None:
        """Close and connect again."""
        ...

    def close(self) -> None:
        """Let go of everything; may be called at any time, and again."""
        ...


class RTSPReader:
    """Reads a camera with FFmpeg: over TCP first, over UDP where the camera refuses that."""

    def __init__(
        self,
        address: Address,
        stamper: FrameStamper,
        *,
        clock: Clock,
        stopping: threading.Event,
        transport: Literal["tcp", "udp"] | None = None,
        open_timeout_s: float = 7.0,
        read_timeout_s: float = 9.0,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            address: The camera, credentials included.
            stamper: Numbers the frames.
            clock: Of arrival.
            stopping: Once set, `read_frame` ends with the next packet.
            transport: None: TCP first.
            open_timeout_s: For the whole of FFmpeg's opening, and again for its look at the format.
            read_timeout_s: For each packet as a whole, so that dripping bytes do not help a camera.
        """
        self._address, self._stamper, self._clock, self._stopping = address, stamper, clock, stopping
        self._where = f"camera {stamper.camera_id}, {address}"
        self._open_timeout_s, self._read_timeout_s = open_timeout_s, read_timeout_s
        self._options = {
            "rtsp_transport": _TRANSPORT[transport],
            "rtsp_flags": "prefer_tcp",
            "allowed_media_types": "video",
            "fpsprobesize": "0",  # else FFmpeg watches 25 pictures to guess the rate; never "nobuffer", it loses them
            "probesize": "5000",
            "protocol_whitelist": "rtsp,rtsps,rtp,tcp,tls,udp",
            "format_whitelist": "rtsp,sdp,rtp",
        }
        self._input: VideoInput | None = None
        self._waiting: deque[Frame] = deque()

    def connect(self) -> None:
        """Open the camera.

        Raises:
            StreamError: With the class of what went wrong.
        """
        started_s = self._clock.monotonic_s()
        timeout = (self._open_timeout_s, self._read_timeout_s)
        try:
            self._input = VideoInput(
                self._address.secret(), self._stamper, where=self._where, options=self._options, timeout=timeout
            )
        except av.FFmpegError as exc:
            error = self._opening_error(exc, self._clock.monotonic_s() - started_s)
        else:
            return
        raise error  # here, since FFmpeg's error, which quotes the password, must not be its context

    def read_frame(self) -> Frame | None:
        """Wait for the next sound picture.

        Returns:
            The frame; None once the reader is stopping.

        Raises:
            StreamError: ``timeout``, ``ended``, or what FFmpeg reports.
        """
        while not self._waiting:
            if self._stopping.is_set():
                return None
            self._read_packet()
        return self._waiting.popleft()

    def handle_reconnection(self) -> None:
        """Close what is open and connect anew."""
        self.close()
        self.connect()

    def close(self) -> None:
        """Tell the camera that its viewer leaves, and close."""
        self._waiting.clear()
        if self._input is not None:
            self._input.close()
            self._input = None

    def _read_packet(self) -> None:
        error: StreamError | None = None
        try:
            pictures = self._opened().read()
        except av.FFmpegError as exc:
            error_class = classify(exc)
            what = None if error_class == "timeout" else f"FFmpeg: {exc.strerror}"
            error = stream_error(error_class, what, where=self._where)
        if error is not None:
            raise error
        if pictures is None:
            raise stream_error("ended", where=self._where)
        arrived_s, captured_at = self._clock.monotonic_s(), self._clock.utc_s()
        for picture in pictures:
            self._waiting.append(self._stamper.stamp(picture, time_s=arrived_s, captured_at=captured_at))

    def _opened(self) -> VideoInput:
        if self._input is None:
            raise stream_error("ended", "The camera is not connected", where=self._where)
        return self._input

    def _opening_error(self, exc: av.FFmpegError, took_s: float) -> StreamError:
        """FFmpeg calls its own deadline, an unknown host and a closed connection "invalid data": look closer."""
        if took_s >= self._open_timeout_s:
            return stream_error("timeout", where=self._where)
        error_class = classify(exc)
        if error_class not in {"corrupt", "unreachable"}:
            return stream_error(error_class, f"FFmpeg: {exc.strerror}", where=self._where)
        timeout_s = min(_DIAGNOSIS_S, self._open_timeout_s - took_s)
        return stream_error(diagnose(self._address, timeout_s=timeout_s), where=self._where)
