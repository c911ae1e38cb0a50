"""The cameras that no client asked for: held for ever, tried again while they are refused."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from weakref import WeakValueDictionary

from detector_worker.core.clock import Backoff
from detector_worker.core.exceptions import DetectorWorkerError
from detector_worker.core.singleton_managers import ServiceState, ServiceStateManager
from detector_worker.engine.engine import Engine, SubscriptionSpec

__all__ = ["CameraOutcome", "SiteCamera", "SiteCameras"]

_log: Final = logging.getLogger(__name__)
_HOLDER: Final = "cameras file"
"""The engine's client that never goes away."""
_SERVICE: Final = "site-cameras"
_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class CameraOutcome:
    """What became of one camera of a list."""

    camera_id: str
    status: Literal["started", "unchanged", "replaced", "removed", "error"]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SiteCamera:
    """One camera of the site as it stands."""

    spec: SubscriptionSpec
    tried: bool
    """Whether the engine has answered at all."""
    error: str | None
    """Why the engine refuses it, with what, where and mend; None where it does not."""
    retry_in_s: float | None


@dataclass(slots=True, eq=False)
class _Wish:
    """One camera as it is to be, until another wish takes its place."""

    spec: SubscriptionSpec
    backoff: Backoff
    error: str | None = None
    retry_at_s: float | None = None
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


class SiteCameras:
    """Holds a subscription for each camera of the site. Used on one event loop; `run` owns a task for each wish.

    Args:
        engine: Where the cameras are subscribed to.
        services: Is told whether any camera is refused, which makes the worker ``degraded``.
        retry_s: How long to wait before a camera that was refused is tried again; doubled each time, at most 60 s.
    """

    def __init__(self, engine: Engine, *, services: ServiceStateManager, retry_s: float) -> None:
        self._engine, self._services, self._retry_s = engine, services, retry_s
        self._wishes: dict[str, _Wish] = {}
        self._new: list[_Wish] = []
        self._something_new = asyncio.Event()
        # Each start of a downloaded archive downloads it; a host that hangs must hold up no other archive's cameras.
        self._starts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def run(self) -> None:
        """Carry out the wishes until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._something_new.wait()
                self._something_new.clear()
                for wish in self._new:
                    group.create_task(self._fulfil(wish), name=f"site camera {wish.spec.camera_id}")
                self._new.clear()

    def want(self, spec: SubscriptionSpec) -> None:
        """Watch a camera from now on, instead of what was wanted under its name."""
        self._add(spec)

    async def put(self, spec: SubscriptionSpec) -> CameraOutcome:
        """As `want`; return once the engine has answered for the first time."""
        before = self._wishes.get(spec.camera_id)
        was_working = before is not None and before.error is None
        wish = self._add(spec)
        await wish.answered.wait()
        if wish.error is not None:
            return CameraOutcome(spec.camera_id, "error", wish.error)
        if before is None or not was_working:
            return CameraOutcome(spec.camera_id, "started")
        return CameraOutcome(spec.camera_id, "unchanged" if before.spec == spec else "replaced")

    async def remove(self, camera_id: str) -> CameraOutcome:
        """Watch a camera no longer; nothing happens where it is not watched."""
        wish = self._wishes.pop(camera_id, None)
        if wish is not None:
            self._end(wish)
            try:
                await self._engine.unsubscribe(_HOLDER, wish.spec.subscription_id)
            except DetectorWorkerError as exc:  # it had never been accepted
                _log.info("Camera %s was not watched: %s", camera_id, exc)
            self._report()
        return CameraOutcome(camera_id, "removed")

    def cameras(self) -> Mapping[str, SiteCamera]:
        """Return every camera as it stands, by id."""
        now_s = time.monotonic()
        return {
            camera_id: SiteCamera(
                wish.spec,
                tried=wish.answered.is_set(),
                error=wish.error,
                retry_in_s=None if wish.retry_at_s is None else max(0.0, wish.retry_at_s - now_s),
            )
            for camera_id, wish in self._wishes.items()
        }

    def _add(self, spec: SubscriptionSpec) -> _Wish:
        before = self._wishes.get(spec.camera_id)
        if before is not None:
            self._end(before)
        wish = self._wishes[spec.camera_id] = _Wish(spec, Backoff(base_s=self._retry_s))
        self._new.append(wish)
        self._something_new.set()
        return wish

    def _end(self, wish: _Wish) -> None:
        wish.over.set()
        wish.answered.set()

    async def _fulfil(self, wish: _Wish) -> None:
        """Try until it works or another wish has taken its place."""
        camera_id = wish.spec.camera_id
        while True:
            wish.error = await self._attempt(wish)
            if wish.over.is_set():
                return
            self._report()
            wish.answered.set()
            if wish.error is None:
                return
            delay_s = wish.backoff.next_delay_s()
            wish.retry_at_s = time.monotonic() + delay_s
            _log.warning("Camera %s is refused, tried again in %.0f s: %s", camera_id, delay_s, wish.error)
            try:
                async with asyncio.timeout(delay_s):
                    await wish.over.wait()
            except TimeoutError:
                wish.retry_at_s = None
            else:
                return

    async def _attempt(self, wish: _Wish) -> str | None:
        """Subscribe; return why it was refused. The engine keeps the order of calls for one subscription."""
        spec = wish.spec
        starts = self._starts.setdefault(spec.model_url, asyncio.Semaphore(_AT_ONCE))
        async with starts:
            if wish.over.is_set():
                return None
            try:
                await self._engine.subscribe(_HOLDER, spec)
            except DetectorWorkerError as exc:
                return str(exc)
            except Exception:  # noqa: BLE001 - this camera's boundary: a bug here is not the others' trouble
                _log.exception("Camera %s could not be started", spec.camera_id)
                return "The worker failed at this camera. Its log says why."
        _log.info("Camera %s is watched", spec.camera_id)
        return None

    def _report(self) -> None:
        refused = sorted(name for name, wish in self._wishes.items() if wish.error is not None)
        if not self._wishes:
            self._services.remove(_SERVICE)
        elif refused:
            shown = ", ".join(refused[:5]) + (", ..." if len(refused) > 5 else "")
            detail = f"refused, {len(refused)} of {len(self._wishes)}: {shown}"
            self._services.set(_SERVICE, ServiceState("down", detail=detail))
        else:
            self._services.set(_SERVICE, ServiceState("ok"))
