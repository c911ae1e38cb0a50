"""All cameras of a group: one connection for each, however many subscriptions watch it."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from detector_worker.core.clock import Backoff, Clock, SystemClock
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.frame import Frame
from detector_worker.streams.frame_reader import FrameSource, HTTPSnapshotReader, RTSPReader
from detector_worker.streams.stream_config import StreamConfig, StreamInfo
from detector_worker.streams.stream_reader import StreamReader

__all__ = ["StreamConfig", "StreamInfo", "StreamManager", "StreamReader"]

_log: Final = logging.getLogger(__name__)
_CHECK_EVERY_S: Final = 1.0
_STOP_TIMEOUT_S: Final = 2.0
_Key = tuple[str, str, str | None, float]


@dataclass(eq=False, slots=True)
class _Subscriber:
    subscription_id: str
    camera_id: str
    deliver: Callable[[Frame], object]
    has_failed: bool = False


@dataclass(eq=False, slots=True)
class _Stream:
    """One connection. ``subscribers`` is replaced, never changed: the reader's thread goes through it unlocked."""

    key: _Key
    info: StreamInfo
    reader: StreamReader = field(init=False)
    subscribers: tuple[_Subscriber, ...] = ()

    def cameras(self) -> set[str]:
        """Names under which it is watched; usually one."""
        return {subscriber.camera_id for subscriber in self.subscribers}

    def deliver(self, frame: Frame) -> None:
        """Hand a frame to every subscriber, in the reader's thread."""
        for subscriber in self.subscribers:
            try:
                subscriber.deliver(frame.seen_as(subscriber.camera_id))
            except Exception:  # noqa: BLE001 - the subscriber's boundary: the others still get their frame
                if not subscriber.has_failed:
                    _log.exception("Subscription %s: frames cannot be delivered", subscriber.subscription_id)
                subscriber.has_failed = True


class StreamManager:
    """Owns the readers. Its methods belong to one event loop; frames are delivered in the readers' threads."""

    def __init__(self, *, notify: Callable[[StreamStatus], None], clock: Clock | None = None) -> None:
        """Begin without streams; ``notify`` takes each change of a connection, on the loop, and must not block."""
        self._notify, self._clock = notify, clock or SystemClock()
        self._streams: dict[_Key, _Stream] = {}
        self._by_subscription: dict[str, _Stream] = {}
        self._check: asyncio.TimerHandle | None = None

    async def create_stream(
        self, camera_id: str, config: StreamConfig, subscription_id: str, *, deliver: Callable[[Frame], object]
    ) -> str:
        """Watch a camera for a subscription: the connection to its address is opened, or shared where there is one.

        Args:
            camera_id: As frames and statuses name it.
            config: The camera. Where the connection is there already, its first user's retry rule holds.
            subscription_id: Whose; one stream each.
            deliver: Takes each frame in the reader's thread; must not wait.

        Returns:
            The stream's id, for the other methods: the subscription's own.

        Raises:
            MessageProcessingError: The address is none of this type.
            ValueError: The subscription has a stream already.
        """
        if subscription_id in self._by_subscription:
            raise ValueError(f"subscription {subscription_id} has a stream already")
        key = config.connection_key()
        stream = self._streams.get(key) or self._new_stream(camera_id, config, key)
        is_known, is_new_camera = key in self._streams, camera_id not in stream.cameras()
        stream.subscribers += (_Subscriber(subscription_id, camera_id, deliver),)
        self._by_subscription[subscription_id] = self._streams[key] = stream
        if not is_known:
            stream.reader.start()
            self._schedule_check()
        elif is_new_camera:
            self._notify(replace(stream.info.status, camera_id=camera_id))
        return subscription_id

    async def remove_stream(self, stream_id: str) -> None:
        """End a subscription's stream, within about two seconds; the connection ends with its last user.

        At most the frame that is being delivered still arrives. Nothing happens where there is no such stream.
        """
        stream = self._by_subscription.pop(stream_id, None)
        if stream is None:
            return
        stream.subscribers = tuple(one for one in stream.subscribers if one.subscription_id != stream_id)
        if not stream.subscribers:
            del self._streams[stream.key]
            await self._stop([stream])

    async def reconnect_stream(self, stream_id: str) -> None:
        """Connect anew at once, whatever state the camera is in; KeyError where there is no such stream."""
        self._by_subscription[stream_id].reader.reconnect()

    async def stop_all_streams(self) -> None:
        """End everything, within about two seconds."""
        if self._check is not None:
            self._check.cancel()
            self._check = None
        streams = tuple(self._streams.values())
        self._streams.clear()
        self._by_subscription.clear()
        await self._stop(streams)

    def get_latest_frame(self, camera_id: str) -> Frame | None:
        """Return a camera's newest frame; None where there is none yet, or no such camera."""
        stream = self._find(camera_id)
        frame = stream.reader.get_latest_frame() if stream else None
        return frame.seen_as(camera_id) if frame else None

    def get_stream_info(self, camera_id: str) -> StreamInfo:
        """Return the state of a camera's connection; KeyError where there is no such camera."""
        stream = self._find(camera_id)
        if stream is None:
            raise KeyError(camera_id)
        return replace(stream.info, status=replace(stream.info.status, camera_id=camera_id))

    def _find(self, camera_id: str) -> _Stream | None:
        return next((stream for stream in self._streams.values() if camera_id in stream.cameras()), None)

    def _new_stream(self, camera_id: str, config: StreamConfig, key: _Key) -> _Stream:
        stream = _Stream(key, StreamInfo(config, StreamStatus(camera_id, StreamState.CONNECTING)))
        loop = asyncio.get_running_loop()

        def notify(status: StreamStatus) -> None:
            with suppress(RuntimeError):  # the loop has gone: nobody wants to know any more
                loop.call_soon_threadsafe(self._take_status, stream, status)

        stream.reader = StreamReader(
            self._source_maker(camera_id, config),
            stream.deliver,
            camera_id=camera_id,
            backoff=Backoff(base_s=config.reconnect_interval),
            notify=notify,
            clock=self._clock,
            max_retries=config.max_retries,
            silent_after_s=config.silent_after_s,
        )
        return stream

    def _source_maker(self, camera_id: str, config: StreamConfig) -> Callable[[threading.Event], FrameSource]:
        address = config.address()
        if config.stream_type == "rtsp":
            return partial(RTSPReader, address, camera_id, clock=self._clock, transport=config.transport)
        return partial(HTTPSnapshotReader, address, camera_id, clock=self._clock, interval_s=config.interval_s)

    def _take_status(self, stream: _Stream, status: StreamStatus) -> None:
        stream.info.update_status(status)
        if status.state in {StreamState.ERROR, StreamState.STALLED}:
            self._handle_stream_error(status)
        elif status.state is StreamState.FAILED:
            self._notify_stream_failure(status)
        for camera_id in stream.cameras():
            self._notify(replace(status, camera_id=camera_id))

    def _handle_stream_error(self, status: StreamStatus) -> None:
        """The reader mends itself; say so."""
        _log.warning("Camera %s: %s: %s", status.camera_id, status.state, status.reason)

    def _notify_stream_failure(self, status: StreamStatus) -> None:
        """The reader has given up."""
        _log.error("Camera %s: given up after %d attempts: %s", status.camera_id, status.attempt, status.reason)

    def _schedule_check(self) -> None:
        if self._check is None:
            self._check = asyncio.get_running_loop().call_later(_CHECK_EVERY_S, self._check_silence)

    def _check_silence(self) -> None:
        self._check = None
        for stream in self._streams.values():
            stream.reader.check_silence()
        if self._streams:
            self._schedule_check()

    async def _stop(self, streams: Iterable[_Stream]) -> None:
        readers = []
        for stream in streams:
            stream.subscribers = ()  # what the reader has told already finds nobody any more
            stream.reader.request_stop()
            readers.append(stream.reader)
        stuck = await asyncio.to_thread(_join, readers)
        if stuck:
            _log.warning("%d camera readers are stuck in a call and were left behind", stuck)


def _join(readers: Iterable[StreamReader]) -> int:
    """Wait for all of them against one deadline; return how many did not end."""
    deadline_s = time.monotonic() + _STOP_TIMEOUT_S
    return sum(not reader.stop(deadline_s - time.monotonic()) for reader in readers)
