"""What the demo knows at this moment, and who is told when it changes: the terminal and the pages."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal

__all__ = ["Board", "CameraView", "Event", "RecordView", "WorkerView"]

_RECORDS_SHOWN: Final = 50
_MAX_UNREAD: Final = 200


@dataclass(frozen=True, slots=True)
class CameraView:
    """One camera."""

    camera_id: str
    state: str = "waiting"
    """``waiting``, ``filming``, then the worker's word for its connection, at last ``played``."""
    detail: str = ""
    records: int = 0


@dataclass(frozen=True, slots=True)
class RecordView:
    """One record."""

    record_id: str
    camera_id: str
    timestamp: str
    """Of its picture, RFC 3339."""
    brand: str | None
    body: str | None
    plate: str | None
    latency_ms: float | None = None
    """From the sending of its picture to the result's arrival; None where the result was never told."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """The worker's process."""

    state: Literal["starting", "running", "restarting"] = "starting"
    pid: int | None = None
    restarts: int = 0
    detail: str = ""


Event = CameraView | RecordView | WorkerView
Listener = asyncio.Queue[Event | None]


class Board:
    """Keeps the newest state of everything. Used on one event loop.

    Each listener has a bounded queue; one that does not keep up loses its place and is told by None.
    """

    def __init__(self, camera_ids: Iterable[str]) -> None:
        self.cameras = {camera_id: CameraView(camera_id) for camera_id in camera_ids}
        self.records: deque[RecordView] = deque(maxlen=_RECORDS_SHOWN)
        self.worker = WorkerView()
        self._known: set[str] = set()
        self._listeners: set[Listener] = set()

    def set_camera(self, camera_id: str, state: str, detail: str = "") -> None:
        """Note how a camera is; one that has been played stays so."""
        before = self.cameras[camera_id]
        after = replace(before, state=state, detail=detail)
        if after != before and before.state != "played":
            self.cameras[camera_id] = after
            self._tell(after)

    def set_worker(self, worker: WorkerView) -> None:
        """Note how the worker is; with it, the connections to its cameras end."""
        self.worker = worker
        self._tell(worker)
        if worker.state == "restarting":
            for camera in tuple(self.cameras.values()):
                if camera.state not in {"waiting", "filming"}:
                    self.set_camera(camera.camera_id, "connecting")

    def note_record(self, record: RecordView) -> None:
        """Count a record, once however often it is told."""
        if record.record_id in self._known:
            return
        self._known.add(record.record_id)
        self.records.append(record)
        camera = self.cameras[record.camera_id]
        self.cameras[record.camera_id] = replace(camera, records=camera.records + 1)
        self._tell(self.cameras[record.camera_id])
        self._tell(record)

    def snapshot(self) -> list[Event]:
        """Return everything that a newcomer has to know, records oldest first."""
        return [self.worker, *self.cameras.values(), *self.records]

    @contextmanager
    def listen(self) -> Iterator[Listener]:
        """Give a queue of all further changes."""
        listener: Listener = asyncio.Queue(_MAX_UNREAD + 1)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def _tell(self, event: Event) -> None:
        for listener in tuple(self._listeners):
            is_full = listener.qsize() >= _MAX_UNREAD
            listener.put_nowait(None if is_full else event)
            if is_full:
                self._listeners.discard(listener)
