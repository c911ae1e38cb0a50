"""A real group in this process, and a record of all that it tells and analyses."""

import asyncio
import logging
import time
import traceback
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support.sessions import new_caches
from support.tried import share_trials
from support.waiting import wait_until

from detector_worker.communication.metrics import Metrics
from detector_worker.core.config import Configuration
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.outbox import SavedVisit, SessionEntry, SpoolEntry
from detector_worker.core.singleton_managers import (
    CacheStateManager,
    CameraStateManager,
    ModelStateManager,
    PipelineStateManager,
    ServiceStateManager,
    SessionStateManager,
    StreamStateManager,
)
from detector_worker.engine.engine import LaneResult, SubscriptionSpec
from detector_worker.engine.group import Group
from detector_worker.engine.group_owner import GroupReport
from detector_worker.engine.lane import Analysed, Lane
from detector_worker.engine.read_model import ReadModel

__all__ = ["GroupLog", "Told", "WatchedGroup", "collected_logs", "watched_group"]

_NAME: Final = "group-0"
_GRACE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Told:
    """A change of a camera's state, and when the owner got to know it."""

    at_s: float
    """Monotonic seconds."""
    status: StreamStatus


class GroupLog:
    """A group's owner that takes everything, and reports to the state managers as the engine does."""

    def __init__(self) -> None:
        self.told: dict[str, list[Told]] = defaultdict(list)
        """By camera id, oldest first."""
        self.reports: list[GroupReport] = []
        self.results: list[LaneResult] = []
        self._streams, self._cameras, self._queues = StreamStateManager(), CameraStateManager(), CacheStateManager()
        self._pipelines, self._services, self._models = (
            PipelineStateManager(),
            ServiceStateManager(),
            ModelStateManager(),
        )
        self.read_model = ReadModel(
            streams=self._streams,
            cameras=self._cameras,
            models=self._models,
            pipelines=self._pipelines,
            sessions=SessionStateManager(),
            services=self._services,
        )

    async def accept(
        self, entries: Sequence[SpoolEntry], *, visit: SavedVisit | None = None, session: SessionEntry | None = None
    ) -> None: ...

    async def save_visit(self, visit: SavedVisit) -> None: ...

    async def forget_visit(self, record_id: str) -> None: ...

    def on_result(self, result: LaneResult) -> None:
        self.results.append(result)

    def on_stream_status(self, status: StreamStatus) -> None:
        self.told[status.camera_id].append(Told(time.monotonic(), status))
        self.read_model.set_stream_status(status)

    def on_report(self, report: GroupReport) -> None:
        self.reports.append(report)
        self.read_model.take_report(_NAME, report)

    def on_log(self, record: dict[str, object]) -> None: ...

    def shown(self) -> str:
        """Return all that has been told so far, and what clients and metrics are shown of it now."""
        managers = (self._streams, self._cameras, self._queues, self._pipelines, self._services, self._models)
        snapshots = [manager.snapshot() for manager in managers]
        metrics = Metrics(
            streams=self._streams,
            cameras=self._cameras,
            pipelines=self._pipelines,
            queues=self._queues,
            services=self._services,
            caches=new_caches(),
        ).text()
        return f"{dict(self.told)} {self.reports} {self.results} {snapshots} {metrics.decode()}"

    def first(self, camera_id: str, matches: Callable[[StreamStatus], bool], *, since_s: float) -> Told | None:
        """Return the first change of a camera that was told since then and is as wanted."""
        later = (one for one in self.told[camera_id] if one.at_s >= since_s)
        return next((one for one in later if matches(one.status)), None)

    def state(self, camera_id: str) -> StreamState | None:
        """Return a camera's state now."""
        return self.told[camera_id][-1].status.state if self.told[camera_id] else None

    async def wait_for(
        self, camera_id: str, matches: Callable[[StreamStatus], bool], *, since_s: float, timeout_s: float
    ) -> Told:
        """Wait for what `first` returns."""
        await wait_until(lambda: self.first(camera_id, matches, since_s=since_s), timeout_s=timeout_s)
        told = self.first(camera_id, matches, since_s=since_s)
        assert told is not None
        return told

    async def wait_until_active(self, camera_id: str, *, since_s: float = 0.0, timeout_s: float = 15.0) -> Told:
        """Wait for a camera's first picture since then."""
        return await self.wait_for(
            camera_id, lambda status: status.state is StreamState.ACTIVE, since_s=since_s, timeout_s=timeout_s
        )


class WatchedGroup(Group):
    """A group that tells of each frame that it has analysed.

    Args:
        folder: For its data.
        observe: Called in the analysis threads.
        streams: The configuration's section.
    """

    def __init__(
        self, folder: Path, *, observe: Callable[[Analysed], None] | None = None, threads: int = 2, **streams: Any
    ) -> None:
        server = {"data_dir": str(share_trials(folder))}
        configuration = Configuration.model_validate({"server": server, "streams": streams})
        self.log = GroupLog()
        super().__init__(configuration, owner=self.log, threads=threads, any_path=True)
        self._observe = observe

    async def watch(self, camera_id: str, url: str, archive: Path, **rest: Any) -> str:
        """Start a lane, and return its subscription id."""
        kind = "rtsp_url" if url.startswith("rtsp") else "snapshot_url"
        addresses = {kind: url, **rest}
        spec = SubscriptionSpec(f"desk;{camera_id}", "desk", camera_id, str(archive), **addresses)
        self.log.read_model.add_subscription(spec, _NAME)
        await self.start_lane(spec, saved_visits=(), session_id=None)
        return spec.subscription_id

    async def stop_time_s(self, subscription_id: str) -> float:
        """End a lane, and return how long that took."""
        began_s = time.monotonic()
        await self.stop_lane(subscription_id)
        return time.monotonic() - began_s

    async def refusal(self, camera_id: str) -> str:
        """Return the whole traceback of an error about a camera without a picture."""
        try:
            await self.newest_jpeg(camera_id)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it must not show the password
            return "".join(traceback.format_exception(exc))
        return ""

    async def load_lane(
        self, spec: SubscriptionSpec, *, lossless: bool, observe: Callable[[Analysed], None] | None = None
    ) -> Lane:
        return await super().load_lane(spec, lossless=lossless, observe=observe or self._observe)


@asynccontextmanager
async def watched_group(
    folder: Path, *, observe: Callable[[Analysed], None] | None = None, **streams: Any
) -> AsyncIterator[WatchedGroup]:
    """Run a group; it must stop in time."""
    group = WatchedGroup(folder, observe=observe, **streams)
    await group.start()
    try:
        yield group
    finally:
        async with asyncio.timeout(_GRACE_S + 5):
            left = await group.stop(grace_s=_GRACE_S)
    assert left == []


@contextmanager
def collected_logs() -> Iterator[list[str]]:
    """Collect every record of every logger at its lowest level, with its traceback."""
    lines: list[str] = []
    formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(formatter.format(record))

    root, handler = logging.getLogger(), Collector(logging.DEBUG)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
