"""What crosses the border between main and a group: plain dataclasses and JPEG bytes, nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

from detector_worker.core.entities import StreamStatus
from detector_worker.core.outbox import SavedVisit, SpoolEntry
from detector_worker.engine.engine import LaneResult, SessionId, SubscriptionSpec

__all__ = [
    "AcceptEntries",
    "ForgetVisit",
    "GroupCommand",
    "GroupEvent",
    "GroupReport",
    "GroupRequest",
    "LaneReport",
    "LogLine",
    "ModelReport",
    "NewestJpeg",
    "SaveVisit",
    "SetLiveDetections",
    "SetSession",
    "StartLane",
    "StopGroup",
    "StopLane",
]


# Main to group; each is answered.
@dataclass(frozen=True, slots=True)
class StartLane:
    """Analyse a camera for a subscription; answered when the archive is loaded."""

    spec: SubscriptionSpec
    live_detections: bool = False
    saved_visits: tuple[SavedVisit, ...] = ()
    session_id: SessionId | None = None


@dataclass(frozen=True, slots=True)
class StopLane:
    """End a subscription."""

    subscription_id: str


@dataclass(frozen=True, slots=True)
class SetSession:
    """From now on a display's records carry this session."""

    display_id: str
    session_id: SessionId | None


@dataclass(frozen=True, slots=True)
class SetLiveDetections:
    """Tell each analysed frame of a subscription, or no longer."""

    subscription_id: str
    wanted: bool


@dataclass(frozen=True, slots=True)
class NewestJpeg:
    """Answered with the newest frame of a camera."""

    camera_id: str


@dataclass(frozen=True, slots=True)
class StopGroup:
    """Finish the runs under way, then end."""


GroupCommand = StartLane | StopLane | SetSession | SetLiveDetections | NewestJpeg | StopGroup


# Group to main; answered after fsync.
@dataclass(frozen=True, slots=True)
class AcceptEntries:
    """Take these into the spool."""

    entries: Sequence[SpoolEntry]
    visit: SavedVisit | None


@dataclass(frozen=True, slots=True)
class SaveVisit:
    """Keep a live visit."""

    visit: SavedVisit


@dataclass(frozen=True, slots=True)
class ForgetVisit:
    """A visit has ended."""

    record_id: str


GroupRequest = AcceptEntries | SaveVisit | ForgetVisit


# Group to main; not answered. `LaneResult` and `StreamStatus` are sent as they are.
@dataclass(frozen=True, slots=True)
class LaneReport:
    """One lane's figures of the last seconds."""

    subscription_id: str
    fps_in: float
    fps_analysed: float
    fps_dropped: float
    latency_ms: tuple[float, float] | None
    """Median and 95th percentile, from capture to analysed."""
    errors: int
    reconnects: int
    runs_completed: int
    runs_partial: int
    runs_failed: int
    runs_under_way: int


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One loaded model."""

    model_id: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class GroupReport:
    """A group's sign of life, each second, with its figures."""

    lanes: tuple[LaneReport, ...]
    models: tuple[ModelReport, ...]


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log record, since main alone writes logs."""

    name: str
    level: int
    message: str
    path: str
    line: int
    created_at: float


GroupEvent = LaneResult | StreamStatus | GroupReport | LogLine
