"""The engine as its users see it: who analyses which camera is its business alone.

`LocalEngine` keeps the groups as child processes of this machine. What an engine has to tell goes through
`EngineEvents`, which is passed in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from detector_worker.core.entities import DetectionResult, FieldValue, SessionId, StreamStatus

__all__ = ["Engine", "EngineEvents", "LaneResult", "SessionId", "SubscriptionOptions", "SubscriptionSpec"]


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """Finer settings of one subscription; None: the configuration's."""

    transport: Literal["tcp", "udp"] | None = None
    min_size_px: float | None = None
    """Detections whose shorter side is below this are ignored."""
    ignore_masks: tuple[tuple[float, float, float, float], ...] = ()
    """Regions of the full frame, pixels, x1 y1 x2 y2: detections centred in one are ignored."""
    frozen_after_s: float | None = None
    """A picture that has not changed at all for so long is a fault; None: it may stand for ever."""
    precision: Literal["auto", "f32", "bf16", "int8"] | None = None
    """Of the detector."""


@dataclass(frozen=True, slots=True)
class SubscriptionSpec:
    """What a client asked for: one camera, one archive, one display."""

    subscription_id: str
    """``<displayId>;<cameraId>``"""
    display_id: str
    camera_id: str
    model_url: str
    rtsp_url: str | None = field(default=None, repr=False)
    snapshot_url: str | None = field(default=None, repr=False)
    snapshot_interval_s: float = 1.0
    target_fps: float | None = None
    model_id: str | int | None = None
    model_name: str | None = None
    crop: tuple[int, int, int, int] | None = None
    """x1, y1, x2, y2, pixels of the full frame."""
    detect_url: str | None = field(default=None, repr=False)
    """A small RTSP stream of the same camera, to be analysed in place of ``url``, from which crops are taken."""
    options: SubscriptionOptions = SubscriptionOptions()

    @property
    def url(self) -> str:
        """The camera's address, with its secrets: RTSP where both are given."""
        return self.rtsp_url or self.snapshot_url or ""

    @property
    def has_places(self) -> bool:
        """Whether it names anything in pixels of the full frame."""
        return bool(self.crop or self.options.ignore_masks or self.options.min_size_px)

    @property
    def addresses(self) -> tuple[str | None, str | None, str | None]:
        """All addresses of the camera, with their secrets."""
        return self.rtsp_url, self.snapshot_url, self.detect_url


@dataclass(frozen=True, slots=True)
class LaneResult:
    """One analysed frame, or one finished pipeline run (``final``), of one subscription."""

    subscription_id: str
    camera_id: str
    frame_id: int
    captured_at: float
    """Seconds since 1970, UTC."""
    detections: tuple[DetectionResult, ...]
    final: bool
    record_id: str | None = None
    session_id: SessionId | None = None
    branches: Mapping[str, Mapping[str, FieldValue]] = field(default_factory=dict)
    fields: Mapping[str, FieldValue] = field(default_factory=dict)
    status: Literal["completed", "partial", "failed"] = "completed"
    model_id: str | int | None = None
    model_name: str | None = None
    pipeline_id: str | None = None


class EngineEvents(Protocol):
    """What an engine tells. Called on the main process's event loop; must not block."""

    def on_result(self, result: LaneResult) -> None:
        """An analysed frame or a finished run."""
        ...

    def on_stream_status(self, subscription_ids: tuple[str, ...], status: StreamStatus) -> None:
        """A camera's connection changed; these subscriptions watch it."""
        ...


class Engine(Protocol):
    """Starts and stops subscriptions, and knows their newest pictures."""

    async def subscribe(self, client_id: str, spec: SubscriptionSpec, *, live_detections: bool = False) -> None:
        """Make a client hold a subscription; returns when its archive is loaded and its stream started.

        The same content again is a no-op, other content replaces the old one.

        Raises:
            DetectorWorkerError: The archive, the address or the limit refused it; nothing has changed.
        """
        ...

    async def unsubscribe(self, client_id: str, subscription_id: str) -> None:
        """Let go of a subscription; it ends when nobody holds it any more.

        Raises:
            MessageProcessingError: This client does not hold it (``not_found``).
        """
        ...

    async def cleanup_client_streams(self, client_id: str) -> None:
        """The client has gone: its subscriptions end after the grace time, unless somebody holds them then."""
        ...

    async def set_session(self, display_id: str, session_id: SessionId | None) -> None:
        """Set the session that a display's records carry from now on; None ends it."""
        ...

    async def reconnect(self, camera_id: str) -> None:
        """Connect to a camera anew at once, whatever state it is in.

        Raises:
            MessageProcessingError: No such camera (``not_found``).
            ServiceError: Whoever has it is being started.
        """
        ...

    async def newest_jpeg(self, camera_id: str, *, annotated: bool = False) -> bytes:
        """Return the newest frame of a camera, or the newest analysed one with what was seen in it.

        Raises:
            MessageProcessingError: No such camera (``not_found``).
            StreamError: It has not delivered a frame yet, and why.
            ServiceError: Whoever has it is being started.
        """
        ...
