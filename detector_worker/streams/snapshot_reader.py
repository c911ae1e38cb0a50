"""A camera over HTTP, at an even pace."""

import asyncio
import hashlib
import threading
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from typing import Final

from detector_worker.core.addresses import Address, NetworkPolicy
from detector_worker.core.clock import Clock
from detector_worker.core.frame import Frame
from detector_worker.streams.http_camera import HTTPCamera
from detector_worker.streams.http_pictures import HTTPPictures, Picture
from detector_worker.streams.picture_decoding import DamagedPictureError, decode_picture
from detector_worker.streams.stream_errors import stream_error, translated

__all__ = ["HTTPSnapshotReader", "Pace"]

_MAX_DAMAGED: Final = 3
_KEEPALIVE_S: Final = 60.0  # beyond the interval: longer than cameras keep theirs, so that they are the ones who close


class Pace:
    """Due times that do not drift; what comes late starts a new pace, without catching up. Pure."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._due_s: float | None = None

    def next_due_s(self, now_s: float) -> float:
        """Return when the next picture is due; the first one is at once."""
        self._due_s = now_s if self._due_s is None else max(now_s, self._due_s + self._interval_s)
        return self._due_s


class HTTPSnapshotReader:
    """Fetches JPEG or PNG pictures at an even pace. Has an event loop of its own, in its reader's thread.

    An answer of ``multipart/x-mixed-replace`` is stayed with: the newest of its pictures is taken when one is due,
    the others are never decoded. A picture that has not changed makes no frame, but sets ``alive_s``. A damaged one
    is skipped and counted; three in a row are an error.
    """

    def __init__(
        self,
        address: Address,
        camera_id: str,
        stopping: threading.Event,
        *,
        clock: Clock,
        policy: NetworkPolicy,
        interval_s: float = 1.0,
        timeout_s: float = 5.0,
    ) -> None:
        """Prepare.

        Args:
            address: http or https, with user and password where the camera wants them.
            camera_id: As frames and errors name it.
            stopping: Set when reading must end; a read that waits sees it once `abort` is called.
            clock: Of frames and pace.
            policy: Where this address and any redirect may lead.
            interval_s: Between pictures.
            timeout_s: For one question, from the look-up of the host to the last byte of its answer; for MJPEG to
                its header, then nine seconds for each picture.
        """
        self.damaged = 0
        """Pictures that could not be decoded, over all connections."""
        self.alive_s: float | None = None
        """Monotonic time of the last good answer without a new picture; None before the first."""
        self.clock_is_suspect = False
        """HTTP tells no time of capture: a frame's is that of its arrival, which cannot jump."""
        self._address, self._camera_id, self._stopping = address, camera_id, stopping
        self._clock, self._policy = clock, policy
        self._where = f"camera {camera_id}, {address}"
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._numbers = count(1)
        self._aborted = threading.Event()
        self._runner: asyncio.Runner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: asyncio.Timeout | None = None
        self._pictures: HTTPPictures | None = None
        self._forget()

    def connect(self) -> None:
        """Make the loop; the first picture opens the connection, which the next ones use again."""
        self._aborted.clear()
        self._forget()
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()

    def read_frame(self) -> Frame | None:
        """Wait for the next picture that is due, new and sound; None once ``stopping`` is set."""
        runner = self._runner
        if runner is None:
            raise stream_error("ended", where=self._where)
        return translated(lambda: runner.run(self._read_until_aborted()), where=self._where)

    def handle_reconnection(self) -> None:
        """Close the connection and prepare a new one."""
        self.close()
        self.connect()

    def abort(self) -> None:
        """End a waiting or running read at once, and any further one before the next connection, with a StreamError.

        May be called in any thread at any time.
        """
        self._aborted.set()
        loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):  # it was closed just now
                loop.call_soon_threadsafe(self._end_running)

    def close(self) -> None:
        """Close the connection and the loop."""
        if self._runner is not None:
            with self._runner:
                if self._pictures is not None:
                    self._runner.run(self._pictures.close())
        self._runner = self._loop = self._pictures = None

    def _forget(self) -> None:
        """A new connection's first picture is new, whatever was seen before."""
        self._pace = Pace(self._interval_s)
        self._conditions: Mapping[str, str] = {}
        self._seen_hash = b""
        self._damaged_in_row = 0

    def _end_running(self) -> None:
        if self._running is not None and not self._running.expired():
            self._running.reschedule(asyncio.get_running_loop().time())

    async def _read_until_aborted(self) -> Frame | None:
        running = self._running = asyncio.timeout(None)
        try:
            async with running:
                if self._aborted.is_set():  # before there was anything to end
                    self._end_running()
                return await self._next_frame()
        except TimeoutError:
            is_aborted = running.expired()
        finally:
            self._running = None
        if is_aborted and self._stopping.is_set():
            return None
        raise stream_error("timeout", "The reading was ended from outside" if is_aborted else None, where=self._where)

    async def _next_frame(self) -> Frame | None:
        if self._pictures is None:
            keepalive_s = self._interval_s + _KEEPALIVE_S
            camera = HTTPCamera(self._address, self._policy, where=self._where, keepalive_s=keepalive_s)
            self._pictures = HTTPPictures(camera, where=self._where, clock=self._clock, timeout_s=self._timeout_s)
        while not self._stopping.is_set():
            picture = await self.fetch_snapshot(self._pictures, self.schedule_next())
            if picture is None:
                self.alive_s = self._clock.monotonic_s()
            elif frame := self.decode_image(picture):
                return frame
        return None

    def schedule_next(self) -> float:
        """Return when the next picture is due, monotonic seconds."""
        return self._pace.next_due_s(self._clock.monotonic_s())

    async def fetch_snapshot(self, pictures: HTTPPictures, due_s: float) -> Picture | None:
        """Fetch the picture that is due, as the camera sends it; None where it has not changed."""
        return await pictures.next_picture(due_s, self._conditions)

    def decode_image(self, picture: Picture) -> Frame | None:
        """Return the frame of a picture; None where that is damaged or the one before."""
        picture_hash = hashlib.sha256(picture.data).digest()
        if picture_hash == self._seen_hash:
            self.alive_s = picture.time_s
            return None
        try:
            image = decode_picture(picture.data, where=self._where)
        except DamagedPictureError as exc:
            self.damaged += 1
            self._damaged_in_row += 1
            if self._damaged_in_row >= _MAX_DAMAGED:
                what = f"{_MAX_DAMAGED} pictures in a row are damaged: {exc}"
                raise stream_error("corrupt", what, where=self._where) from exc
            return None
        self._damaged_in_row, self._seen_hash, self._conditions = 0, picture_hash, picture.conditions
        return Frame(
            image,
            camera_id=self._camera_id,
            frame_id=next(self._numbers),
            time_s=picture.time_s,
            captured_at=picture.captured_at,
        )
