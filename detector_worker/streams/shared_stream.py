"""One camera's connection with all who watch it, and the snapshots that stand in while it is down."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from threading import Event, Thread
from typing import Final

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.clock import Backoff, Clock
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.frame import Frame, PairedFrame
from detector_worker.streams.camera_link import CameraLinks
from detector_worker.streams.frame_reader import FrameSource, HTTPSnapshotReader, RTSPReader
from detector_worker.streams.stream_config import StreamConfig, StreamInfo
from detector_worker.streams.stream_reader import StreamReader

__all__ = ["SharedStream", "Subscriber"]

_log: Final = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Subscriber:
    """Who takes a connection's frames, and under which name."""

    subscription_id: str
    camera_id: str
    deliver: Callable[[Frame], object]
    has_failed: bool = False


class SharedStream:
    """One connection. Used on one event loop, but for `_deliver`, which the readers' threads call."""

    def __init__(
        self,
        camera_id: str,
        config: StreamConfig,
        *,
        clock: Clock,
        policy: NetworkPolicy,
        links: CameraLinks,
        notify: Callable[["SharedStream", StreamStatus], None],
    ) -> None:
        """Prepare; `start` starts it. ``notify`` takes each change of state on the loop.

        Raises:
            MessageProcessingError: An address is none of its type.
        """
        self.key = config.connection_key()
        self.info = StreamInfo(config, StreamStatus(camera_id, StreamState.CONNECTING))
        self._camera_id, self._clock, self._policy, self._links = camera_id, clock, policy, links
        self._notify, self._loop = notify, asyncio.get_running_loop()
        self._numbers = count(1)
        self._subscribers: tuple[Subscriber, ...] = ()  # replaced, never changed: threads go through it unlocked
        self._wh: tuple[int, int] | None = None
        """How large its own pictures are."""
        self._reader = self._new_reader(config, self._deliver, self._take_status)
        self._fallback: StreamReader | None = None
        self._retired: list[StreamReader] = []
        """Former fall-backs whose threads have not ended yet."""
        self._fallback_is_active = False

    def start(self) -> None:
        """Start reading."""
        self._reader.start()

    def cameras(self) -> set[str]:
        """Names under which it is watched; usually one."""
        return {subscriber.camera_id for subscriber in self._subscribers}

    def add(self, subscriber: Subscriber) -> None:
        """Give somebody each frame from now on, instead of whoever had this subscription before."""
        others = (one for one in self._subscribers if one.subscription_id != subscriber.subscription_id)
        self._subscribers = (*others, subscriber)

    def remove(self, subscription_id: str) -> None:
        """Give a subscription no further frame."""
        self._subscribers = tuple(one for one in self._subscribers if one.subscription_id != subscription_id)

    def request_stop(self) -> list[StreamReader]:
        """Ask its readers to end, without waiting; return them."""
        self._subscribers = ()  # what they have told already finds nobody any more
        readers = self._readers()
        for reader in readers:
            reader.request_stop()
        return readers

    def reconnect(self) -> None:
        """Connect anew at once."""
        self._reader.reconnect()
        if self._fallback is not None:
            self._fallback.reconnect()

    def latest_frame(self) -> Frame | None:
        """Return the newest frame, whichever source it came from."""
        frames = [self._reader.get_latest_frame(), self._fallback.get_latest_frame() if self._fallback else None]
        return max((frame for frame in frames if frame is not None), key=lambda frame: frame.time_s, default=None)

    @property
    def damaged(self) -> int:
        """Pictures that were withheld because they were damaged."""
        return self._reader.damaged

    def stuck_threads(self) -> list[Thread]:
        """Return the threads that are lost inside a library."""
        self._retired = [reader for reader in self._retired if reader.stuck_threads()]
        return [thread for reader in self._readers() for thread in reader.stuck_threads()]

    def check_silence(self) -> None:
        """Look for silent sources; to be called twice a second."""
        self._reader.check_silence()
        if self._fallback is not None:
            self._fallback.check_silence()

    def _readers(self) -> list[StreamReader]:
        current = [self._reader] if self._fallback is None else [self._reader, self._fallback]
        return current + self._retired

    def _new_reader(
        self, config: StreamConfig, deliver: Callable[[Frame], None], take_status: Callable[[StreamStatus], None]
    ) -> StreamReader:
        def notify(status: StreamStatus) -> None:
            with suppress(RuntimeError):  # the loop has gone: nobody wants to know any more
                self._loop.call_soon_threadsafe(take_status, status)

        return StreamReader(
            self._source_maker(config),
            deliver,
            camera_id=self._camera_id,
            backoff=Backoff(base_s=config.reconnect_interval),
            notify=notify,
            clock=self._clock,
            max_retries=config.max_retries,
            silent_after_s=config.silent_after_s,
            frozen_after_s=config.frozen_after_s,
            numbers=self._numbers,
        )

    def _source_maker(self, config: StreamConfig) -> Callable[[Event], FrameSource]:
        where = (config.address(), self._camera_id)
        if config.stream_type == "rtsp":
            return partial(
                RTSPReader,
                *where,
                clock=self._clock,
                policy=self._policy,
                links=self._links,
                transport=config.transport,
            )
        return partial(HTTPSnapshotReader, *where, clock=self._clock, policy=self._policy, interval_s=config.interval_s)

    def _deliver(self, frame: Frame) -> None:
        self._wh = frame.wh
        self._hand_out(frame)

    def _deliver_fallback(self, frame: Frame) -> None:
        """In the pixels of the camera's own pictures: snapshots are often smaller."""
        is_other = self._wh is not None and self._wh != frame.wh
        self._hand_out(PairedFrame(frame, None, self._wh) if self._wh is not None and is_other else frame)

    def _hand_out(self, frame: Frame) -> None:
        """Give a frame to every subscriber, in the reader's thread."""
        for subscriber in self._subscribers:
            try:
                subscriber.deliver(frame.seen_as(subscriber.camera_id))
            except Exception:  # noqa: BLE001 - the subscriber's boundary: the others still get their frame
                if not subscriber.has_failed:
                    _log.exception("Subscription %s: frames cannot be delivered", subscriber.subscription_id)
                subscriber.has_failed = True

    def _take_status(self, status: StreamStatus) -> None:
        if not self._subscribers:
            return
        if status.state.is_down:
            self._open_fallback()
        elif status.state is StreamState.ACTIVE:
            self._close_fallback()
        self.info.update_status(self._with_fallback(status))
        self._notify(self, self.info.status)

    def _take_fallback_status(self, status: StreamStatus) -> None:
        """The camera's state stays that of its proper source; only whether snapshots stand in is told."""
        is_active = status.state is StreamState.ACTIVE
        if self._subscribers and self._fallback is not None and is_active is not self._fallback_is_active:
            self._fallback_is_active = is_active
            self.info.status = self._with_fallback(self.info.status)
            self._notify(self, self.info.status)

    def _with_fallback(self, status: StreamStatus) -> StreamStatus:
        warnings = tuple(one for one in status.warnings if one != "fallback")
        return replace(status, warnings=warnings + ("fallback",) * self._fallback_is_active)

    def _open_fallback(self) -> None:
        config = self.info.config.fallback()
        if config is not None and self._fallback is None:
            self._fallback = self._new_reader(config, self._deliver_fallback, self._take_fallback_status)
            self._fallback.start()

    def _close_fallback(self) -> None:
        """Its thread ends by itself: nothing of it is delivered any more."""
        if self._fallback is not None:
            self._fallback.request_stop()
            self._retired.append(self._fallback)
            self._fallback, self._fallback_is_active = None, False
