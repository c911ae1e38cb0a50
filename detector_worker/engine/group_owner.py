"""What a group tells whoever runs it, over a pipe or in the same process."""

from dataclasses import dataclass, field
from typing import Protocol

from detector_worker.core.entities import StreamStatus
from detector_worker.core.outbox import Outbox
from detector_worker.core.singleton_managers import ModelCacheState
from detector_worker.engine.engine import LaneResult

__all__ = ["GroupOwner", "GroupReport", "LaneReport"]


@dataclass(frozen=True, slots=True)
class LaneReport:
    """One lane's figures of the last seconds, and its runs since the start."""

    subscription_id: str
    fps_in: float
    fps_analysed: float
    fps_dropped: float
    fps_still: float
    """Passed over, since they showed nothing new."""
    latency_ms: tuple[float, float] | None
    """Median and 95th percentile, from capture to analysed."""
    errors: int
    reconnects: int
    damaged: int
    """Pictures that were withheld because they were damaged."""
    runs: tuple[int, int, int, int]
    """Under way, completed, partial, failed."""


@dataclass(frozen=True, slots=True)
class GroupReport:
    """A group's sign of life, each second."""

    lanes: tuple[LaneReport, ...]
    memory_by_model: dict[str, int]
    """Bytes by model id."""
    model_cache: ModelCacheState = field(default_factory=ModelCacheState)
    stuck_threads: int = 0
    """Camera threads that do not come back from a library."""
    busy_s: float = 0.0
    """For how long the longest analysis under way has lasted."""


class GroupOwner(Outbox, Protocol):
    """Takes what a group leaves and tells; on the group's event loop, or at the other end of its pipe."""

    def on_result(self, result: LaneResult) -> None:
        """An analysed frame or a finished run."""
        ...

    def on_stream_status(self, status: StreamStatus) -> None:
        """A camera's connection changed."""
        ...

    def on_report(self, report: GroupReport) -> None:
        """The group lives."""
        ...

    def on_log(self, record: dict[str, object]) -> None:
        """A log record's attributes, since main alone writes logs."""
        ...
