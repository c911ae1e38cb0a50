"""The engine of one machine: groups as child processes, subscriptions placed on them."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, assert_never
from weakref import WeakValueDictionary

from detector_worker.core.config import Configuration
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.exceptions import DetectorWorkerError, MessageProcessingError, ServiceError
from detector_worker.core.outbox import Outbox, SavedVisit
from detector_worker.engine.engine import EngineEvents, LaneResult, SessionId, SubscriptionSpec
from detector_worker.engine.group_handle import GroupHandle
from detector_worker.engine.messages import (
    AcceptEntries,
    ForgetVisit,
    GroupEvent,
    GroupReport,
    GroupRequest,
    LogLine,
    NewestJpeg,
    SaveVisit,
    SetLiveDetections,
    SetSession,
    StartLane,
    StopLane,
)
from detector_worker.engine.read_model import ReadModel

__all__ = ["LocalEngine", "VisitKeeper"]

_log: Final = logging.getLogger(__name__)
_START_S: Final = 30.0
_CORES_PER_GROUP: Final = 8


class VisitKeeper(Outbox, Protocol):
    """The spool as the engine needs it."""

    async def live_visits(self, subscription_id: str) -> Sequence[SavedVisit]:
        """Return the visits that were under way when they were last kept."""
        ...


@dataclass(slots=True, eq=False)
class _Subscription:
    spec: SubscriptionSpec
    group: GroupHandle
    holders: dict[str, bool] = field(default_factory=dict)
    """By client: whether it wants live detections."""
    ending: asyncio.TimerHandle | None = None

    @property
    def live_wanted(self) -> bool:
        return any(self.holders.values())


class LocalEngine:
    """Implements `Engine` with child processes. Used on one event loop."""

    def __init__(self, configuration: Configuration, *, spool: VisitKeeper, read_model: ReadModel) -> None:
        """Wire it.

        Args:
            configuration: All settings; goes to the groups as it is.
            spool: Where groups' entries are accepted and visits kept.
            read_model: Where states and figures are reported.
        """
        self._spool, self._read_model = spool, read_model
        self._grace_s = configuration.streams.subscription_grace_seconds
        self._subscriptions: dict[str, _Subscription] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._sessions: dict[str, SessionId] = {}
        self._endings: set[asyncio.Task[None]] = set()
        cores = os.cpu_count() or 1
        count = configuration.engine.groups or max(1, cores // _CORES_PER_GROUP)
        threads = configuration.engine.analysis_threads or max(1, cores // count)
        self._groups = [
            GroupHandle(f"group-{n}", configuration, threads=threads, owner=self) for n in range(1, count + 1)
        ]
        self._ready = {group.name: asyncio.Event() for group in self._groups}

    async def start(self, events: EngineEvents) -> None:
        """Start the groups and wait for their first sign of life.

        Args:
            events: Who is told of results and camera states.

        Raises:
            ServiceError: A group did not come up.
        """
        self._events = events
        for group in self._groups:
            group.start()
        try:
            async with asyncio.timeout(_START_S):
                for ready in self._ready.values():
                    await ready.wait()
        except TimeoutError:
            late = ", ".join(name for name, ready in self._ready.items() if not ready.is_set())
            raise ServiceError(
                f"Not ready within {_START_S:.0f} s", where=late, mend="Look into the log for what it says."
            ) from None

    async def stop(self) -> None:
        """Stop all groups at the same time."""
        for subscription in self._subscriptions.values():
            if subscription.ending is not None:
                subscription.ending.cancel()
        await asyncio.gather(*(group.stop() for group in self._groups), *self._endings, return_exceptions=True)

    async def subscribe(self, client_id: str, spec: SubscriptionSpec, *, live_detections: bool = False) -> None:
        async with self._lock(spec.subscription_id):
            self._check_source(spec)
            subscription = self._subscriptions.get(spec.subscription_id)
            if subscription is None:
                subscription = _Subscription(spec, self._place(spec.camera_id))
                await self._start_lane(subscription, live_detections=live_detections)
                self._subscriptions[spec.subscription_id] = subscription
            elif subscription.spec != spec:
                replacement = _Subscription(spec, subscription.group)
                await self._start_lane(replacement, live_detections=subscription.live_wanted)
                subscription.spec = spec
            if subscription.ending is not None:
                subscription.ending.cancel()
                subscription.ending = None
            await self._hold(subscription, client_id, live_detections=live_detections)

    async def unsubscribe(self, client_id: str, subscription_id: str) -> None:
        async with self._lock(subscription_id):
            subscription = self._subscriptions.get(subscription_id)
            if subscription is None or client_id not in subscription.holders:
                raise MessageProcessingError(
                    "There is no such subscription of this client",
                    where=f"subscription {subscription_id}",
                    mend="Name one that you have subscribed to.",
                    code="not_found",
                    field="subscriptionIdentifier",
                )
            await self._let_go(subscription, client_id)
            if not subscription.holders:
                await self._end(subscription)

    async def cleanup_client_streams(self, client_id: str) -> None:
        for subscription in tuple(self._subscriptions.values()):
            if client_id not in subscription.holders:
                continue
            await self._let_go(subscription, client_id)
            if not subscription.holders and self._grace_s > 0:
                loop = asyncio.get_running_loop()
                subscription.ending = loop.call_later(self._grace_s, self._begin_ending, subscription)

    async def set_session(self, display_id: str, session_id: SessionId | None) -> None:
        if session_id is None:
            self._sessions.pop(display_id, None)
        else:
            self._sessions[display_id] = session_id
        self._read_model.set_session(display_id, session_id)
        for group in self._groups:
            try:
                await group.request(SetSession(display_id, session_id))
            except ServiceError as exc:  # it is given every session when it is up again
                _log.warning("A session reaches its group later: %s", exc)

    async def newest_jpeg(self, camera_id: str) -> bytes:
        subscription = next((one for one in self._subscriptions.values() if one.spec.camera_id == camera_id), None)
        if subscription is None:
            raise MessageProcessingError(
                "Nobody watches such a camera", where=f"camera {camera_id}", mend="Subscribe to it.", code="not_found"
            )
        jpeg: bytes = await subscription.group.request(NewestJpeg(camera_id))
        return jpeg

    # What groups ask and tell: `GroupOwner`.

    async def answer_group(self, request: GroupRequest) -> None:
        match request:
            case AcceptEntries(entries, visit):
                await self._spool.accept(entries, visit=visit)
            case SaveVisit(visit):
                await self._spool.save_visit(visit)
            case ForgetVisit(record_id):
                await self._spool.forget_visit(record_id)
            case _:
                assert_never(request)

    def on_group_event(self, name: str, event: GroupEvent) -> None:
        match event:
            case LaneResult():
                self._events.on_result(event)
            case StreamStatus():
                self._tell_stream_status(event)
            case GroupReport():
                self._ready[name].set()
                self._read_model.take_report(name, event)
            case LogLine():
                record = logging.LogRecord(event.name, event.level, event.path, event.line, event.message, None, None)
                record.created, record.processName = event.created_at, name
                logging.getLogger(event.name).handle(record)
            case _:
                assert_never(event)

    async def on_group_up(self, name: str, pid: int) -> None:
        self._read_model.group_starts(name, pid)
        for subscription in tuple(self._subscriptions.values()):
            if subscription.group.name != name:
                continue
            try:
                await self._start_lane(subscription, live_detections=subscription.live_wanted)
            except DetectorWorkerError as exc:
                _log.error("%s cannot go on: %s", subscription.spec.subscription_id, exc)
                self._tell_stream_status(StreamStatus(subscription.spec.camera_id, StreamState.FAILED, reason=str(exc)))

    def on_group_down(self, name: str, reason: str) -> None:
        self._read_model.group_down(name, reason)
        cameras = {one.spec.camera_id for one in self._subscriptions.values() if one.group.name == name}
        for camera_id in sorted(cameras):
            self._tell_stream_status(
                StreamStatus(camera_id, StreamState.CONNECTING, reason="its process is started again")
            )

    # Steps.

    def _lock(self, subscription_id: str) -> asyncio.Lock:
        return self._locks.setdefault(subscription_id, asyncio.Lock())

    def _check_source(self, spec: SubscriptionSpec) -> None:
        for other in self._subscriptions.values():
            same_camera = other.spec.camera_id == spec.camera_id
            if (
                same_camera
                and other.spec.subscription_id != spec.subscription_id
                and _source(other.spec) != _source(spec)
            ):
                raise MessageProcessingError(
                    f"The camera has another address in subscription {other.spec.subscription_id}",
                    where=f"camera {spec.camera_id}",
                    mend="A cameraId names one source: use the same address or another cameraId.",
                    code="invalid_field",
                    field="rtspUrl" if spec.rtsp_url else "snapshotUrl",
                )

    def _place(self, camera_id: str) -> GroupHandle:
        """One camera's subscriptions share a group, for they share the connection; else the emptiest group."""
        cameras: Counter[str] = Counter()
        for subscription in self._subscriptions.values():
            if subscription.spec.camera_id == camera_id:
                return subscription.group
            cameras[subscription.group.name] += 1
        return min(self._groups, key=lambda group: cameras[group.name])

    async def _start_lane(self, subscription: _Subscription, *, live_detections: bool) -> None:
        spec = subscription.spec
        visits = await self._spool.live_visits(spec.subscription_id)
        session_id = self._sessions.get(spec.display_id)
        self._read_model.add_subscription(spec, subscription.group.name)
        try:
            await subscription.group.request(StartLane(spec, live_detections, tuple(visits), session_id))
        except DetectorWorkerError:
            if spec.subscription_id not in self._subscriptions:
                self._read_model.remove_subscription(spec)
            raise

    async def _hold(self, subscription: _Subscription, client_id: str, *, live_detections: bool) -> None:
        before = subscription.live_wanted
        subscription.holders[client_id] = live_detections
        await self._set_live(subscription, before=before)

    async def _let_go(self, subscription: _Subscription, client_id: str) -> None:
        before = subscription.live_wanted
        del subscription.holders[client_id]
        await self._set_live(subscription, before=before)

    async def _set_live(self, subscription: _Subscription, *, before: bool) -> None:
        if subscription.live_wanted != before:
            command = SetLiveDetections(subscription.spec.subscription_id, subscription.live_wanted)
            try:
                await subscription.group.request(command)
            except ServiceError as exc:  # it is given the lane as a whole when it is up again
                _log.warning("Live detections follow later: %s", exc)

    def _begin_ending(self, subscription: _Subscription) -> None:
        task = asyncio.create_task(self._end_unless_held(subscription), name="end-subscription")
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _end_unless_held(self, subscription: _Subscription) -> None:
        async with self._lock(subscription.spec.subscription_id):
            if not subscription.holders:
                await self._end(subscription)

    async def _end(self, subscription: _Subscription) -> None:
        spec = subscription.spec
        if self._subscriptions.pop(spec.subscription_id, None) is None:
            return
        try:
            await subscription.group.request(StopLane(spec.subscription_id))
        except ServiceError as exc:  # a group that starts anew is not given this lane
            _log.info("Ended with its group: %s", exc)
        self._read_model.remove_subscription(spec)

    def _tell_stream_status(self, status: StreamStatus) -> None:
        self._read_model.set_stream_status(status)
        ids = tuple(id_ for id_, one in self._subscriptions.items() if one.spec.camera_id == status.camera_id)
        self._events.on_stream_status(ids, status)


def _source(spec: SubscriptionSpec) -> tuple[str | None, str | None]:
    return spec.rtsp_url, spec.snapshot_url
