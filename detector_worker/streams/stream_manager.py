"""All cameras of a group: one connection for each, however many subscriptions watch it."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.clock import Clock, SystemClock
from detector_worker.core.entities import StreamState, StreamStatus
from detector_worker.core.frame import Frame
from detector_worker.streams.camera_link import CameraLinks
from detector_worker.streams.shared_stream import SharedStream, Subscriber
from detector_worker.streams.stream_config import StreamConfig, StreamInfo
from detector_worker.streams.stream_reader import StreamReader

__all__ = ["StreamConfig", "StreamInfo", "StreamManager", "StreamReader"]

_log: Final = logging.getLogger(__name__)
_CHECK_EVERY_S: Final = 0.5
_STOP_TIMEOUT_S: Final = 1.8
_LOST_AFTER_S: Final = 15.0
"""A thread that was left behind ends with its call's own deadline; one that has not by then is lost."""


class StreamManager:
    """Owns the readers. Its methods belong to one event loop; frames are delivered in the readers' threads."""

    def __init__(
        self,
        *,
        notify: Callable[[StreamStatus], None],
        clock: Clock | None = None,
        policy: NetworkPolicy | None = None,
    ) -> None:
        """Begin without streams.

        Args:
            notify: Takes each change of a connection, on the loop; must not block.
            clock: Of everything here.
            policy: Where cameras may be.
        """
        self._notify, self._clock = notify, clock or SystemClock()
        self._policy, self._links = policy or NetworkPolicy(), CameraLinks()
        self._streams: dict[StreamConfig, SharedStream] = {}
        self._by_subscription: dict[str, SharedStream] = {}
        self._check: asyncio.TimerHandle | None = None
        self._left_behind: list[tuple[float, threading.Thread]] = []

    async def create_stream(
        self, camera_id: str, config: StreamConfig, subscription_id: str, *, deliver: Callable[[Frame], object]
    ) -> str:
        """Watch a camera for a subscription: the connection to its address is opened, or shared where there is one.

        What the subscription watched before ends then; a connection that both need is not interrupted.

        Args:
            camera_id: As frames and statuses name it.
            config: The camera. Where the connection is there already, its first user's retry rule holds.
            subscription_id: Whose; one stream each.
            deliver: Takes each frame in the reader's thread; must not wait.

        Returns:
            The stream's id, for the other methods: the subscription's own.

        Raises:
            MessageProcessingError: The address is none of this type.
        """
        key = config.connection_key()
        before, stream = self._by_subscription.get(subscription_id), self._streams.get(key)
        is_known = stream is not None
        if stream is None:
            stream = SharedStream(
                camera_id, config, clock=self._clock, policy=self._policy, links=self._links, notify=self._take_status
            )
        stream.add(Subscriber(subscription_id, camera_id, deliver))
        self._by_subscription[subscription_id] = self._streams[key] = stream
        if not is_known:
            stream.start()
            self._schedule_check()
        else:
            self._notify(replace(stream.info.status, camera_id=camera_id))
        if before is not None and before is not stream:
            before.remove(subscription_id)
            await self._end_unless_watched(before)
        return subscription_id

    async def remove_stream(self, stream_id: str) -> None:
        """End a subscription's stream, within two seconds; the connection ends with its last user.

        At most the frame that is being delivered still arrives. Nothing happens where there is no such stream.
        """
        stream = self._by_subscription.pop(stream_id, None)
        if stream is not None:
            stream.remove(stream_id)
            await self._end_unless_watched(stream)

    async def reconnect_stream(self, stream_id: str) -> None:
        """Connect anew at once, whatever state the camera is in; KeyError where there is no such stream."""
        self._by_subscription[stream_id].reconnect()

    def reconnect_camera(self, camera_id: str) -> None:
        """Connect anew to all that is watched under a camera's name, at once."""
        for stream in self._streams.values():
            if camera_id in stream.cameras():
                stream.reconnect()

    async def stop_all_streams(self) -> None:
        """End everything, within two seconds."""
        if self._check is not None:
            self._check.cancel()
            self._check = None
        streams = tuple(self._streams.values())
        self._streams.clear()
        self._by_subscription.clear()
        await self._stop(streams)
        await asyncio.to_thread(self._links.close)

    def get_latest_frame(self, camera_id: str) -> Frame | None:
        """Return a camera's newest frame; None where there is none yet, or no such camera."""
        stream = self._find(camera_id)
        frame = stream.latest_frame() if stream else None
        return frame.seen_as(camera_id) if frame else None

    def get_stream_info(self, camera_id: str) -> StreamInfo:
        """Return the state of a camera's connection; KeyError where there is no such camera."""
        stream = self._find(camera_id)
        if stream is None:
            raise KeyError(camera_id)
        status = replace(stream.info.status, camera_id=camera_id)
        return replace(stream.info, status=status, damaged=stream.damaged)

    @property
    def stuck_threads(self) -> int:
        """How many of its threads are lost inside a library, now."""
        self._left_behind = [(since_s, thread) for since_s, thread in self._left_behind if thread.is_alive()]
        lost = sum(self._clock.monotonic_s() - since_s >= _LOST_AFTER_S for since_s, _ in self._left_behind)
        return lost + sum(len(stream.stuck_threads()) for stream in self._streams.values())

    def _find(self, camera_id: str) -> SharedStream | None:
        return next((stream for stream in self._streams.values() if camera_id in stream.cameras()), None)

    def _take_status(self, stream: SharedStream, status: StreamStatus) -> None:
        if status.state is StreamState.FAILED:
            self._notify_stream_failure(status)
        elif status.state.is_down:
            self._handle_stream_error(status)
        for camera_id in stream.cameras():
            self._notify(replace(status, camera_id=camera_id))

    def _handle_stream_error(self, status: StreamStatus) -> None:
        """The reader mends itself; say so."""
        stand_in = " (snapshots stand in)" if "fallback" in status.warnings else ""
        _log.warning("Camera %s: %s: %s%s", status.camera_id, status.state, status.reason, stand_in)

    def _notify_stream_failure(self, status: StreamStatus) -> None:
        """The reader has given up."""
        _log.error("Camera %s: given up after %d attempts: %s", status.camera_id, status.attempt, status.reason)

    def _schedule_check(self) -> None:
        if self._check is None:
            self._check = asyncio.get_running_loop().call_later(_CHECK_EVERY_S, self._check_silence)

    def _check_silence(self) -> None:
        self._check = None
        if self._streams:
            self._schedule_check()
        for stream in self._streams.values():
            try:
                stream.check_silence()
            except Exception:  # noqa: BLE001 - one camera's boundary: the others are still watched
                _log.exception("The watchdog of a camera failed; it is tried again")

    async def _end_unless_watched(self, stream: SharedStream) -> None:
        if not stream.cameras():
            del self._streams[stream.key]
            await self._stop([stream])

    async def _stop(self, streams: Iterable[SharedStream]) -> None:
        readers = [reader for stream in streams for reader in stream.request_stop()]
        await asyncio.to_thread(_join, readers)
        stuck = [thread for reader in readers for thread in reader.stuck_threads()]
        if stuck:
            self._left_behind += [(self._clock.monotonic_s(), thread) for thread in stuck]
            _log.warning("%d camera readers are stuck in a call and were left behind", len(stuck))


def _join(readers: Iterable[StreamReader]) -> None:
    """Wait for all of them against one deadline."""
    deadline_s = time.monotonic() + _STOP_TIMEOUT_S
    for reader in readers:
        reader.stop(deadline_s - time.monotonic())
