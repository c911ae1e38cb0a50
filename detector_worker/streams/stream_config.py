"""What a subscription wants of its camera, and what is known of the connection."""

from dataclasses import dataclass, field, replace
from typing import Final, Literal

from detector_worker.core.addresses import Address
from detector_worker.core.entities import StreamState, StreamStatus

__all__ = ["StreamConfig", "StreamInfo"]

_SCHEMES: Final = {"rtsp": frozenset({"rtsp", "rtsps"}), "http_snapshot": frozenset({"http", "https"})}


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """One camera as a subscription asks for it. Rate and crop are the lane's business: the connection is shared."""

    stream_url: str = field(repr=False)
    """Credentials included."""
    stream_type: Literal["rtsp", "http_snapshot"] = "rtsp"
    target_fps: float | None = None
    reconnect_interval: float = 5.0
    """Seconds before the first retry; doubled for each further one, at most 60."""
    max_retries: int = -1
    """-1: for ever."""
    crop_region: tuple[int, int, int, int] | None = None
    """x1, y1, x2, y2, pixels of the full frame."""
    snapshot_interval_s: float = 1.0
    transport: Literal["tcp", "udp"] | None = None
    """None: TCP first, UDP where the camera refuses it."""
    frozen_after_s: float | None = None
    """A picture that has not changed at all for so long counts as a fault; None: it may stand for ever."""
    fallback_url: str | None = field(default=None, repr=False)
    """HTTP snapshots of the same camera, fetched while ``stream_url`` is down; credentials included."""

    def address(self) -> Address:
        """Return the camera's address, which never shows its password; refuse what is none of this type."""
        return Address.parse(self.stream_url, _SCHEMES[self.stream_type])

    @property
    def interval_s(self) -> float:
        """Between pictures, where we set the pace; else 0."""
        return self.snapshot_interval_s if self.stream_type == "http_snapshot" else 0.0

    @property
    def silent_after_s(self) -> float:
        """Without a frame for longer than this the camera is stalled."""
        return max(8.0, 3 * self.interval_s)

    def connection_key(self) -> "StreamConfig":
        """Return what two subscriptions must have in common to share a connection."""
        fetches = self.stream_type == "http_snapshot" or self.fallback_url is not None
        interval_s = self.snapshot_interval_s if fetches else 0.0
        return replace(
            self,
            target_fps=None,
            crop_region=None,
            snapshot_interval_s=interval_s,
            reconnect_interval=0.0,
            max_retries=0,
        )

    def fallback(self) -> "StreamConfig | None":
        """Return the camera's other source, for while this one is down."""
        if self.fallback_url is None:
            return None
        return replace(self, stream_url=self.fallback_url, stream_type="http_snapshot", fallback_url=None)


@dataclass(slots=True)
class StreamInfo:
    """The state of one connection, and its history since the stream was created."""

    config: StreamConfig
    status: StreamStatus
    error_count: int = 0
    """Failed attempts and lost connections."""
    connects: int = 0
    """How often a connection brought its first frame."""
    damaged: int = 0
    """Pictures that were withheld because they were damaged."""
    _is_connecting: bool = True

    @property
    def reconnects(self) -> int:
        """How often the camera came back."""
        return max(0, self.connects - 1)

    def update_status(self, status: StreamStatus) -> None:
        """Take note of a change of state."""
        self.status = status
        match status.state:
            case StreamState.ERROR | StreamState.FAILED:
                self.error_count += 1
            case StreamState.CONNECTING:
                self._is_connecting = True
            case StreamState.ACTIVE:
                self.connects += self._is_connecting  # active after a mere silence is the old connection
                self._is_connecting = False
