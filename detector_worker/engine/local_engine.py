"""The engine of one machine: groups as child processes, subscriptions placed on them."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol
from weakref import WeakValueDictionary

from detector_worker.core.clock import Backoff
from detector_worker.core.config import Configuration
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.exceptions import DetectorWorkerError, MessageProcessingError, ServiceError
from detector_worker.core.outbox import Outbox, SavedVisit
from detector_worker.core.singleton_managers import ServiceState
from detector_worker.engine.engine import EngineEvents, LaneResult, SessionId, SubscriptionSpec
from detector_worker.engine.group_handle import GroupHandle
from detector_worker.engine.group_owner import GroupReport
from detector_worker.engine.group_process import GroupEnd
from detector_worker.engine.read_model import ReadModel

__all__ = ["LocalEngine", "VisitKeeper"]

_log: Final = logging.getLogger(__name__)
_START_S: Final = 30.0
_CORES_PER_GROUP: Final = 8
_RESUME_AGAIN_S: Final = 5.0


class VisitKeeper(Outbox, Protocol):
    """Where groups leave what must not be lost, and what the engine gives them back."""

    async def live_visits(self, subscription_id: str) -> Sequence[SavedVisit]:
        """Return the visits that were under way when they were last kept."""
        ...


@dataclass(slots=True, eq=False)
class _Subscription:
    spec: SubscriptionSpec
    group: GroupHandle
    holders: dict[str, bool] = field(default_factory=dict)
    """By client: whether it wants live detections."""
    ending: asyncio.Task[None] | None = None
    life: int = 0  # in which of its group's processes it was started last


class LocalEngine:
    """Implements `Engine` with child processes. Used on one event loop."""

    def __init__(self, configuration: Configuration, *, outbox: VisitKeeper, read_model: ReadModel) -> None:
        self._outbox, self._read_model = outbox, read_model
        self._grace_s = configuration.streams.subscription_grace_seconds
        self._subscriptions: dict[str, _Subscription] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        cores = os.cpu_count() or 1
        count = configuration.engine.groups or max(1, cores // _CORES_PER_GROUP)
        threads = configuration.engine.analysis_threads or max(1, cores // count)
        names = [f"group-{number}" for number in range(1, count + 1)]
        self._groups = [GroupHandle(name, configuration, threads=threads, keeper=self) for name in names]
        self._alive = {name: asyncio.Event() for name in names}

    async def start(self, events: EngineEvents) -> None:
        """Start the groups and wait for their first sign of life.

        Raises:
            ServiceError: A group did not come up.
        """
        self._events = events
        for group in self._groups:
            group.start()
        try:
            async with asyncio.timeout(_START_S):
                await asyncio.gather(*(alive.wait() for alive in self._alive.values()))
        except TimeoutError:
            late = ", ".join(name for name, alive in self._alive.items() if not alive.is_set())
            what = f"Not ready within {_START_S:.0f} s"
            raise ServiceError(what, where=late, mend="Look into the log for what it says.") from None

    async def stop(self) -> None:
        """Stop all groups at the same time."""
        for subscription in self._subscriptions.values():
            if subscription.ending is not None:
                subscription.ending.cancel()
        await asyncio.gather(*(group.stop() for group in self._groups))

    async def subscribe(self, client_id: str, spec: SubscriptionSpec, *, live_detections: bool = False) -> None:
        async with self._lock(spec.subscription_id):
            self._check_source(spec)
            subscription = self._subscriptions.get(spec.subscription_id)
            if subscription is None:
                subscription = _Subscription(spec, self._place(spec.camera_id))
            if subscription.spec != spec or spec.subscription_id not in self._subscriptions:
                await self._start_lane(spec, subscription)
            subscription.spec = spec
            self._subscriptions[spec.subscription_id] = subscription
            if subscription.ending is not None:
                subscription.ending.cancel()
            subscription.holders[client_id] = live_detections
            await self._tell_live_wanted(subscription)

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
            del subscription.holders[client_id]
            await self._end_unless_held(subscription)

    async def cleanup_client_streams(self, client_id: str) -> None:
        for subscription in tuple(self._subscriptions.values()):
            if subscription.holders.pop(client_id, None) is None:
                continue
            if not subscription.holders and self._grace_s > 0:
                subscription.ending = asyncio.create_task(self._end_later(subscription), name="end of a subscription")
            await self._tell_live_wanted(subscription)

    async def set_session(self, display_id: str, session_id: SessionId | None) -> None:
        if session_id is None:
            self._read_model.sessions.remove(display_id)
        else:
            self._read_model.sessions.set(display_id, session_id)
        told = (group.call(GroupEnd.set_session, display_id, session_id) for group in self._groups)
        for outcome in await asyncio.gather(*told, return_exceptions=True):
            if isinstance(outcome, ServiceError):  # with its lanes it is given their sessions
                _log.info("The session comes with the lanes: %s", outcome)
            elif outcome is not None:
                raise outcome

    async def newest_jpeg(self, camera_id: str, *, annotated: bool = False) -> bytes:
        group = self._watching(camera_id)[0].group
        return await group.call(GroupEnd.newest_jpeg, camera_id, annotated=annotated)

    async def reconnect(self, camera_id: str) -> None:
        for group in {one.group for one in self._watching(camera_id)}:
            await group.call(GroupEnd.reconnect, camera_id)

    # What a group's handle asks and tells: `GroupKeeper`.

    def owner_of(self, name: str) -> "_GroupEars":
        return _GroupEars(name, self, self._outbox)

    async def on_group_up(self, name: str, pid: int) -> None:
        self._read_model.services.set(name, ServiceState("starting", pid=pid))
        by_archive: dict[str, list[_Subscription]] = {}
        for one in self._subscriptions.values():
            if one.group.name == name:
                by_archive.setdefault(one.spec.model_url, []).append(one)
        # One that is slow to come keeps nobody waiting but its own cameras.
        await asyncio.gather(*(self._resume_all(waiting) for waiting in by_archive.values()))

    def on_group_down(self, name: str, reason: str) -> None:
        self._read_model.group_down(name, reason)
        for camera_id in {one.spec.camera_id for one in self._subscriptions.values() if one.group.name == name}:
            reason = "its process is started again"
            self.on_stream_status(StreamStatus(camera_id, StreamState.CONNECTING, reason=reason))

    # What groups tell, by way of `_GroupEars`.

    def on_result(self, result: LaneResult) -> None:
        """Hand on a result."""
        self._events.on_result(result)

    def on_stream_status(self, status: StreamStatus) -> None:
        """Hand on a camera's state to those who watch it."""
        self._events.on_stream_status(self._read_model.set_stream_status(status), status)

    def on_report(self, name: str, report: GroupReport) -> None:
        """Take a group's sign of life."""
        self._alive[name].set()
        next(group for group in self._groups if group.name == name).note_report(report)
        self._read_model.take_report(name, report)

    def _lock(self, subscription_id: str) -> asyncio.Lock:
        return self._locks.setdefault(subscription_id, asyncio.Lock())

    def _watching(self, camera_id: str) -> list[_Subscription]:
        """Return the subscriptions of a camera, at least one."""
        found = [one for one in self._subscriptions.values() if one.spec.camera_id == camera_id]
        if not found:
            raise MessageProcessingError(
                "Nobody watches such a camera", where=f"camera {camera_id}", mend="Subscribe to it.", code="not_found"
            )
        return found

    def _check_source(self, spec: SubscriptionSpec) -> None:
        for other in (one.spec for one in self._subscriptions.values()):
            same_camera = other.camera_id == spec.camera_id and other.subscription_id != spec.subscription_id
            if same_camera and other.addresses != spec.addresses:
                raise MessageProcessingError(
                    f"The camera has another address in subscription {other.subscription_id}",
                    where=f"camera {spec.camera_id}",
                    mend="A cameraId names one source: use the same address or another cameraId.",
                    code="invalid_field",
                    field="rtspUrl" if spec.rtsp_url else "snapshotUrl",
                )

    def _place(self, camera_id: str) -> GroupHandle:
        """One camera's subscriptions share a group, for they share the connection; else the emptiest group."""
        load: Counter[str] = Counter()
        for subscription in self._subscriptions.values():
            if subscription.spec.camera_id == camera_id:
                return subscription.group
            load[subscription.group.name] += 1
        return min(self._groups, key=lambda group: load[group.name])

    async def _start_lane(self, spec: SubscriptionSpec, subscription: _Subscription) -> None:
        group, life = subscription.group, subscription.group.lives
        visits = tuple(await self._outbox.live_visits(spec.subscription_id))
        session_id = self._read_model.sessions.get(spec.display_id)
        self._read_model.add_subscription(spec, group.name)
        try:
            await group.call(GroupEnd.start_lane, spec, saved_visits=visits, session_id=session_id)
            subscription.life = life
        except DetectorWorkerError:
            if spec.subscription_id not in self._subscriptions:
                self._read_model.remove_subscription(spec)
            raise

    async def _resume_all(self, waiting: list[_Subscription]) -> None:
        """Start lanes in a new process of their group; those that are refused are tried again."""
        backoff = Backoff(base_s=_RESUME_AGAIN_S)
        while waiting:
            delay_s = backoff.next_delay_s()
            waiting = [one for one in waiting if not await self._resume(one, retry_in_s=delay_s)]
            if waiting:
                await asyncio.sleep(delay_s)

    async def _resume(self, subscription: _Subscription, *, retry_in_s: float) -> bool:
        """Start one lane; True: there is nothing more to be done."""
        subscription_id = subscription.spec.subscription_id
        async with self._lock(subscription_id):
            is_over = self._subscriptions.get(subscription_id) is not subscription
            if is_over or subscription.life == subscription.group.lives:  # started meanwhile, by whoever replaced it
                return True
            try:
                await self._start_lane(subscription.spec, subscription)
                await self._tell_live_wanted(subscription)
            except DetectorWorkerError as exc:
                reason = str(exc)
            except Exception as exc:  # noqa: BLE001 - one subscription's boundary: the others go on
                _log.exception("%s cannot be started", subscription_id)
                reason = f"Unexpected {type(exc).__name__}"
            else:
                return True
        _log.error("%s is tried again in %.0f s: %s", subscription_id, retry_in_s, reason)
        camera_id = subscription.spec.camera_id
        self.on_stream_status(StreamStatus(camera_id, StreamState.ERROR, retry_in_s=retry_in_s, reason=reason))
        return False

    async def _tell_live_wanted(self, subscription: _Subscription) -> None:
        wanted = any(subscription.holders.values())
        try:
            await subscription.group.call(
                GroupEnd.set_live_detections, subscription.spec.subscription_id, wanted=wanted
            )
        except ServiceError as exc:  # it is told when it is up again
            _log.info("Live detections follow later: %s", exc)

    async def _end_later(self, subscription: _Subscription) -> None:
        await asyncio.sleep(self._grace_s)
        async with self._lock(subscription.spec.subscription_id):
            await self._end_unless_held(subscription)

    async def _end_unless_held(self, subscription: _Subscription) -> None:
        spec = subscription.spec
        if subscription.holders:
            await self._tell_live_wanted(subscription)
        elif self._subscriptions.pop(spec.subscription_id, None) is not None:
            try:
                await subscription.group.call(GroupEnd.stop_lane, spec.subscription_id)
            except ServiceError as exc:  # a group that starts anew is not given this lane
                _log.info("Ended with its group: %s", exc)
            if not any(one.spec.camera_id == spec.camera_id for one in self._subscriptions.values()):
                self.on_stream_status(StreamStatus(spec.camera_id, StreamState.STOPPED))
            self._read_model.remove_subscription(spec)


class _GroupEars:
    """One group's `GroupOwner` in main: what must not be lost to the outbox, the rest to the engine."""

    def __init__(self, name: str, engine: LocalEngine, outbox: Outbox) -> None:
        self._name, self._engine = name, engine
        self.accept, self.save_visit, self.forget_visit = outbox.accept, outbox.save_visit, outbox.forget_visit
        self.on_result, self.on_stream_status = engine.on_result, engine.on_stream_status

    def on_report(self, report: GroupReport) -> None:
        self._engine.on_report(self._name, report)

    def on_log(self, record: dict[str, object]) -> None:
        made = logging.makeLogRecord({**record, "processName": self._name})
        logging.getLogger(made.name).handle(made)
