"""The seam to cameras, and the camera that speaks RTSP."""

import struct
import threading
import time
from collections.abc import Iterator
from typing import Final, Literal, Protocol

import av

from detector_worker.core.addresses import Address, NetworkPolicy
from detector_worker.core.clock import Clock
from detector_worker.core.exceptions import MessageProcessingError, StreamError
from detector_worker.core.frame import Frame
from detector_worker.streams.camera_dialer import CameraDialer, given_up
from detector_worker.streams.camera_link import CameraLink, CameraLinks, LinkEnd
from detector_worker.streams.capture_clock import CaptureClock
from detector_worker.streams.rtsp_urls import at_authority, redirected
from detector_worker.streams.snapshot_reader import HTTPSnapshotReader
from detector_worker.streams.stream_errors import classify, stream_error
from detector_worker.streams.video_reader import VideoReader

__all__ = ["FrameSource", "HTTPSnapshotReader", "RTSPReader"]

_MAX_REDIRECTS: Final = 3
_LEAST_OPENING_S: Final = 0.05
_TRANSPORT: Final = {None: "tcp+udp", "tcp": "tcp", "udp": "udp"}
_OPTIONS: Final = {
    "rtsp_flags": "prefer_tcp",
    "allowed_media_types": "video",
    "fpsprobesize": "0",  # else FFmpeg watches 25 pictures to guess the rate; never "nobuffer", it loses them
    "probesize": "5000",
    "protocol_whitelist": "rtsp,rtp,tcp,udp",  # TLS is ours: FFmpeg itself only speaks to the loopback
    "format_whitelist": "rtsp,sdp,rtp",
}
_BY_STATUS: Final = {401: "authentication", 403: "authentication", 404: "not_found", 410: "not_found"}
_SENDER_TIME: Final = struct.Struct("=q")  # microseconds since 1970, in the machine's own byte order


class FrameSource(Protocol):
    """One camera's connection. Owned by one thread; every method may raise StreamError."""

    @property
    def damaged(self) -> int:
        """Pictures withheld so far because they were damaged."""
        ...

    @property
    def clock_is_suspect(self) -> bool:
        """Whether the camera's clock has jumped of late."""
        ...

    @property
    def alive_s(self) -> float | None:
        """When the camera last showed, without a frame, that nothing has changed; monotonic. None: it never does."""
        ...

    def handle_reconnection(self) -> None:
        """Connect anew, whatever was open before."""
        ...

    def read_frame(self) -> Frame | None:
        """Wait for the next frame. None: the reader is stopping; a camera that ends raises."""
        ...

    def abort(self) -> None:
        """End at once what the owner's thread waits for, with an error. For any thread, at any moment.

        The connection is over then; `handle_reconnection` makes a new one.
        """
        ...

    def close(self) -> None:
        """Let go of everything; may be called at any time, and again."""
        ...


class RTSPReader(VideoReader):
    """Reads a camera with FFmpeg: over TCP first, over UDP where the camera refuses that.

    We connect to the camera ourselves, to a checked address, and FFmpeg speaks through a `CameraLink`: it can
    reach nothing else, and it can be stopped at once. A camera's redirect is followed, at most three times, where
    the policy allows its target; user and password go along only to the same host, and not out of TLS.

    The opening time holds from the look-up of the name to the end of FFmpeg's opening, and what is left of it again
    for its look at the format; the reading time for each packet as a whole, so that dripping bytes do not help.
    """

    alive_s: Final = None
    """A camera that streams always sends pictures."""

    def __init__(
        self,
        address: Address,
        camera_id: str,
        stopping: threading.Event,
        *,
        clock: Clock,
        policy: NetworkPolicy,
        links: CameraLinks,
        transport: Literal["tcp", "udp"] | None = None,
        open_timeout_s: float = 7.0,
        read_timeout_s: float = 9.0,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            address: rtsp or rtsps, with user and password where the camera wants them.
            camera_id: As frames and errors name it.
            stopping: Set when the reader must end; `abort` besides ends what it waits for.
            clock: Of the frames.
            policy: Where the worker may connect.
            links: Carries the bytes; shared by all readers of a process.
            transport: None: TCP first, UDP where the camera refuses that.
            open_timeout_s: For connecting, everything included.
            read_timeout_s: For each packet.
        """
        super().__init__(camera_id, stopping, where=f"camera {camera_id}, {address}", clock=clock)
        self._address, self._policy, self._links = address, policy, links
        self._options = {**_OPTIONS, "rtsp_transport": _TRANSPORT[transport]}
        self._open_timeout_s, self._read_timeout_s = open_timeout_s, read_timeout_s
        self._lock = threading.Lock()
        self._link: CameraLink | None = None
        self._is_given_up = False
        self._capture = CaptureClock()
        self._asked_s = 0.0
        """When the packet was asked for that is waited for."""
        self._sender: tuple[int, float] | None = None
        """A packet's time in the stream's units, and by the camera's clock."""

    @property
    def clock_is_suspect(self) -> bool:
        """Whether the camera's clock has jumped of late."""
        return self._capture.is_suspect

    def connect(self) -> None:
        """Open the camera.

        Raises:
            StreamError: Of the class that the camera's answers or the way to it tell; ``refused`` also where it
                closes the connection before it plays, ``codec`` where it has no picture.
        """
        deadline_s, address, where = time.monotonic() + self._open_timeout_s, self._address, self._where
        with self._lock:
            self._is_given_up = False
        self._capture, self._sender = CaptureClock(), None
        if self._stopping.is_set():
            raise self._error("ended", None, where)
        for _ in range(_MAX_REDIRECTS + 1):
            location = self._connect_to(address, where, deadline_s)
            if location is None:
                return
            address = self._redirected(address, location)
            where = f"{self._where}, redirected to {address}"
        raise stream_error("refused", f"The camera redirects more than {_MAX_REDIRECTS} times", where=self._where)

    def abort(self) -> None:
        """End at once what the owner's thread waits for: the name, the connection, FFmpeg."""
        with self._lock:
            self._is_given_up = True
            if self._link is not None:
                self._link.shut()

    def close(self) -> None:
        """Say goodbye to the camera and let go of it."""
        super().close()
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()

    def _is_over(self) -> bool:
        return self._is_given_up or self._stopping.is_set()

    def _connect_to(self, address: Address, where: str, deadline_s: float) -> str | None:
        """Connect, and return where the camera redirects to; None: it is open."""
        dialer = CameraDialer(self._policy, where=where, deadline_s=deadline_s, is_given_up=self._is_over)
        camera = dialer.dial(address)
        try:
            link = self._links.open(camera)
        except OSError:
            raise stream_error("unreachable", "This machine has no socket left", where=where) from None
        with self._lock:
            self._link = link
            if self._is_given_up:
                link.shut()
        left_s = max(_LEAST_OPENING_S, deadline_s - time.monotonic())
        error: StreamError | None = None
        try:
            self._open(at_authority(address, link.authority), self._options, (left_s, self._read_timeout_s))
        except av.FFmpegError as exc:
            error_class = "timeout" if time.monotonic() >= deadline_s else classify(exc)
            error = self._error(error_class, link, where)
        if error is None and not self._is_over():
            return None
        self.close()
        if link.end is LinkEnd.REDIRECT:
            return link.redirect
        raise error or self._error("ended", link, where)  # here, for FFmpeg's error quotes the password

    def _redirected(self, address: Address, location: str) -> Address:
        try:
            return redirected(address, location)
        except MessageProcessingError as exc:
            what = f"The camera redirects, which is refused: {exc.what}"
        raise stream_error("refused", what, where=self._where)

    def _next_picture(self) -> av.VideoFrame | None:
        error_class = "ended"
        try:
            picture = None if self._is_over() else next(self._pictures, None)
        except av.FFmpegError as exc:
            is_late = time.monotonic() - self._asked_s >= self._read_timeout_s  # FFmpeg has many words for it
            picture, error_class = None, "timeout" if is_late else classify(exc)
        if picture is not None or self._stopping.is_set():
            return picture
        raise self._error(error_class, self._link, self._where)

    def _error(self, said: str, link: CameraLink | None, where: str) -> StreamError:
        """Make the error of what the link knows, else of the class that FFmpeg's own words have."""
        if self._is_over():
            return given_up(where)
        error_class, what = (said, None) if link is None or said == "timeout" else _told_by(link, said)
        return stream_error(error_class, what, where=where)

    def _packets(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator["av.Packet[av.VideoStream]"]:
        self._asked_s = time.monotonic()
        for packet in super()._packets(container, stream):
            if packet.pts is not None and packet.has_sidedata("prft"):
                (time_us,) = _SENDER_TIME.unpack_from(packet.get_sidedata("prft"))
                self._sender = packet.pts, time_us / 1e6
            yield packet
            self._asked_s = time.monotonic()

    def _times(self, picture: av.VideoFrame) -> tuple[float, float]:
        """By the camera's clock where it tells it, carried on from the last packet that did."""
        sender_s = None
        if self._sender is not None and picture.pts is not None and picture.time_base is not None:
            pts, utc_s = self._sender
            sender_s = utc_s + float((picture.pts - pts) * picture.time_base)
        return self._capture.times(
            arrived_s=self._clock.monotonic_s(), arrived_utc_s=self._clock.utc_s(), sender_s=sender_s
        )


def _told_by(link: CameraLink, said: str) -> tuple[str, str | None]:
    """Return an error's class and words; FFmpeg's own class where the link has nothing to tell."""
    if link.lacks_track:
        return "codec", "The camera sends no picture"
    if not link.is_playing and link.status is not None and link.status >= 400:
        return _BY_STATUS.get(link.status, "refused"), f"The camera answers with RTSP status {link.status}"
    if link.end is LinkEnd.NOT_RTSP:
        return "corrupt", "What answers there is no RTSP camera"
    if link.end is LinkEnd.CAMERA:
        return "ended" if link.is_playing else "refused", None
    return said, None
