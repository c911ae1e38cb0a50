"""All cameras of a group: one connection for each, however many subscriptions watch it."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from detector_worker.core.clock import Backoff, Clock, SystemClock
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.frame import Frame
from detector_worker.streams.frame_reader import FileReader, FrameSource, HTTPSnapshotReader, RTSPReader
from detector_worker.streams.frame_stamper import FrameStamper
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
    failures: int = 0


@dataclass(eq=False, slots=True)
class _Stream:
    """One connection. ``subscribers`` is replaced, never changed: the reader's thread goes through it unlocked."""

    key: _Key
    stamper: FrameStamper
    info: StreamInfo
    reader: StreamReader = field(init=False)
    subscribers: tuple[_Subscriber, ...] = ()

    def cameras(self) -> tuple[str, ...]:
        """Names under which it is watched; usually one."""
        return tuple(dict.fromkeys(subscriber.camera_id for subscriber in self.subscribers))


class StreamManager:
    """Owns the readers. Its methods belong to one event loop; frames are delivered in the readers' threads."""

    def __init__(self, *, notify: Callable[[StreamStatus], None], clock: Clock | None = None) -> None:
        """Begin without streams.

        Args:
            notify: Takes each change of a camera's connection, on the event loop; must not block.
            clock: Of arrival and silence; the machine's own where absent.
        """
        self._notify, self._clock = notify, clock or SystemClock()
        self._streams: dict[_Key, _Stream] = {}
        self._by_subscription: dict[str, _Stream] = {}
        self._abandoned: list[StreamReader] = []
        self._check: asyncio.TimerHandle | None = None

    async def create_stream(
        self, camera_id: str, config: StreamConfig, subscription_id: str, *, deliver: Callable[[Frame], object]
    ) -> str:
        """Watch a camera for a subscription: the connection to its address is opened, or shared where there is one.

        Args:
            camera_id: As frames and statuses name it.
            config: The camera. Where the connection is there already, its first user's retry rule holds.
            subscription_id: Whose; one stream each.
            deliver: Takes each frame in the reader's thread. For a camera it must not wait; the reader of a
                film waits for it.

        Returns:
            The stream's id, for the other methods: the subscription's own.

        Raises:
            MessageProcessingError: The address is none of this type.
            ValueError: The subscription has a stream already.
        """
        if subscription_id in self._by_subscription:
            raise ValueError(f"subscription {subscription_id} has a stream already")
        key = config.connection_key()
        stream = self._streams.get(key)
        is_known = stream is not None
        if stream is None:
            stream = self._new_stream(camera_id, config, key)
        is_new_camera = camera_id not in stream.cameras()
        stream.subscribers += (_Subscriber(subscription_id, camera_id, deliver),)
        self._by_subscription[subscription_id] = stream
        if not is_known:
            self._streams[key] = stream
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
            await self._stop([stream.reader])

    async def reconnect_stream(self, stream_id: str) -> None:
        """Connect anew at once, whatever state the camera is in.

        Raises:
            KeyError: No such stream.
        """
        self._by_subscription[stream_id].reader.reconnect()

    async def stop_all_streams(self) -> None:
        """End everything, within about two seconds."""
        if self._check is not None:
            self._check.cancel()
            self._check = None
        readers = [stream.reader for stream in self._streams.values()]
        for stream in self._streams.values():
            stream.subscribers = ()  # what the readers have told already finds nobody any more
        self._streams.clear()
        self._by_subscription.clear()
        await self._stop(readers)

    def get_latest_frame(self, camera_id: str) -> Frame | None:
        """Return a camera's newest frame; None where there is none yet, or no such camera."""
        with suppress(KeyError):
            frame = self._stream_of(camera_id).reader.get_latest_frame()
            return None if frame is None else frame.seen_as(camera_id)
        return None

    def get_stream_info(self, camera_id: str) -> StreamInfo:
        """Return the state of a camera's connection.

        Raises:
            KeyError: No such camera.
        """
        stream = self._stream_of(camera_id)
        return replace(
            stream.info,
            status=replace(stream.info.status, camera_id=camera_id),
            fps_in=stream.reader.fps(),
            damaged_frames=stream.stamper.damaged,
        )

    def abandoned_readers(self) -> int:
        """Return how many readers were stopped but are still stuck in a call."""
        self._abandoned = [reader for reader in self._abandoned if reader.is_running]
        return len(self._abandoned)

    def _stream_of(self, camera_id: str) -> _Stream:
        for stream in self._streams.values():
            if camera_id in stream.cameras():
                return stream
        raise KeyError(camera_id)

    def _new_stream(self, camera_id: str, config: StreamConfig, key: _Key) -> _Stream:
        stamper = FrameStamper(camera_id)
        stream = _Stream(key, stamper, StreamInfo(config, StreamStatus(camera_id, StreamState.CONNECTING)))
        loop = asyncio.get_running_loop()
        stream.reader = StreamReader(
            self._source_maker(config, stamper),
            partial(_deliver_to_all, stream),
            camera_id=camera_id,
            backoff=Backoff(base_s=config.reconnect_interval),
            notify=lambda status: _call_on(loop, partial(self._take_status, stream, status)),
            clock=self._clock,
            max_retries=0 if config.stream_type == "file" else config.max_retries,
            silent_after_s=config.silent_after_s,
        )
        return stream

    def _source_maker(self, config: StreamConfig, stamper: FrameStamper) -> Callable[[threading.Event], FrameSource]:
        """Return what makes a source for each attempt; the address is checked here, once."""
        if config.stream_type == "file":
            return lambda stopping: FileReader(Path(config.stream_url), stamper, clock=self._clock, stopping=stopping)
        address = config.address()
        if config.stream_type == "rtsp":
            return lambda stopping: RTSPReader(
                address, stamper, clock=self._clock, stopping=stopping, transport=config.transport
            )
        return lambda stopping: HTTPSnapshotReader(
            address, stamper, clock=self._clock, stopping=stopping, interval_s=config.snapshot_interval_s
        )

    def _take_status(self, stream: _Stream, status: StreamStatus) -> None:
        stream.info.update_status(status)
        match status.state:
            case StreamState.ERROR | StreamState.STALLED:
                self._handle_stream_error(stream, status)
            case StreamState.FAILED:
                self._notify_stream_failure(stream, status)
            case _:
                self._tell_all(stream, status)

    def _handle_stream_error(self, stream: _Stream, status: StreamStatus) -> None:
        """The reader mends itself; say so."""
        _log.warning("Camera %s: %s: %s", status.camera_id, status.state, status.reason)
        self._tell_all(stream, status)

    def _notify_stream_failure(self, stream: _Stream, status: StreamStatus) -> None:
        """The reader has given up."""
        _log.error("Camera %s: given up after %d attempts: %s", status.camera_id, status.attempt, status.reason)
        self._tell_all(stream, status)

    def _tell_all(self, stream: _Stream, status: StreamStatus) -> None:
        for camera_id in stream.cameras():
            self._notify(replace(status, camera_id=camera_id))

    def _schedule_check(self) -> None:
        if self._check is None:
            self._check = asyncio.get_running_loop().call_later(_CHECK_EVERY_S, self._check_silence)

    def _check_silence(self) -> None:
        self._check = None
        for stream in self._streams.values():
            stream.reader.check_silence()
        if self._streams:
            self._schedule_check()

    async def _stop(self, readers: Iterable[StreamReader]) -> None:
        readers = list(readers)
        for reader in readers:
            reader.request_stop()
        stuck = await asyncio.to_thread(_join, readers)
        self._abandoned += stuck
        if stuck:
            _log.warning("%d camera readers are stuck in a call and were left behind", len(stuck))


def _join(readers: list[StreamReader]) -> list[StreamReader]:
    """Wait for all of them against one deadline; return those that did not end."""
    deadline_s = time.monotonic() + _STOP_TIMEOUT_S
    return [reader for reader in readers if not reader.stop(deadline_s - time.monotonic())]


def _deliver_to_all(stream: _Stream, frame: Frame) -> None:
    for subscriber in stream.subscribers:
        try:
            subscriber.deliver(frame.seen_as(subscriber.camera_id))
        except Exception:  # noqa: BLE001 - the subscriber's boundary: the others still get their frame
            subscriber.failures += 1
            if subscriber.failures == 1:
                _log.exception("Subscription %s: frames cannot be delivered", subscriber.subscription_id)


def _call_on(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Hand a call to the loop; where that has gone, nobody wants to know any more."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
