"""Pictures as they come over HTTP: one for each question, or one answer without end (MJPEG), as the camera decides."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import Final

from aiohttp import ClientResponse

from detector_worker.core.clock import Clock
from detector_worker.streams.http_camera import HTTPCamera
from detector_worker.streams.mjpeg_parts import MultipartError, MultipartParser
from detector_worker.streams.stream_errors import stream_error

__all__ = ["HTTPPictures", "Picture"]

_MAX_PICTURE_BYTES: Final = 32 * 2**20
_MAX_PARTS_PER_S: Final = 240
_SILENT_AFTER_S: Final = 9.0
_CONDITIONS: Final = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture as the camera sent it, not yet looked at."""

    data: bytearray
    time_s: float
    """When it was complete, on the reader's clock."""
    captured_at: float
    """The same, seconds since 1970, UTC."""
    conditions: Mapping[str, str] = field(default_factory=dict)
    """Headers that ask for the next one only where it differs from this one."""


class HTTPPictures:
    """One connection's pictures; closes the camera that it is given. Belongs to one event loop."""

    def __init__(self, camera: HTTPCamera, *, where: str, clock: Clock, timeout_s: float) -> None:
        """Prepare; ``timeout_s`` is for one question, from the connection to the last byte of its answer."""
        self._camera, self._where, self._clock, self._timeout_s = camera, where, clock, timeout_s
        self._stream: _PartStream | None = None

    async def next_picture(self, due_s: float, conditions: Mapping[str, str]) -> Picture | None:
        """Wait until ``due_s``, monotonic, and for the newest picture then; None: it has not changed (304).

        Raises:
            StreamError: The camera answers with something else.
            aiohttp.ClientError, OSError: It does not answer; to be translated without being chained.
        """
        if self._stream is None:
            await asyncio.sleep(due_s - self._clock.monotonic_s())
            async with asyncio.timeout(self._timeout_s):
                response = await self._camera.ask(conditions)
                if response.status == 304:
                    response.release()
                    return None
                if not response.headers.get("Content-Type", "").lower().startswith("multipart/"):
                    return await self._whole_picture(response)
            self._stream = _PartStream(response, where=self._where, clock=self._clock)
        return await self._stream.next_picture(due_s)

    async def close(self) -> None:
        """Close the connection."""
        await self._camera.close()

    async def _whole_picture(self, response: ClientResponse) -> Picture:
        data = bytearray()
        while chunk := await response.content.readany():
            data += chunk
            if len(data) > _MAX_PICTURE_BYTES:
                raise stream_error("corrupt", f"The picture has over {_MAX_PICTURE_BYTES} bytes", where=self._where)
        known = {_CONDITIONS[name]: response.headers.get(name, "") for name in _CONDITIONS}
        conditions = {name: value for name, value in known.items() if value and value.isascii()}
        return Picture(data, self._clock.monotonic_s(), self._clock.utc_s(), conditions)


class _PartStream:
    """An answer that replaces its picture again and again."""

    def __init__(self, response: ClientResponse, *, where: str, clock: Clock) -> None:
        self._response, self._where, self._clock = response, where, clock
        header = Message()
        header["Content-Type"] = response.headers["Content-Type"]
        try:
            self._parser = MultipartParser(header.get_boundary(), max_part_bytes=_MAX_PICTURE_BYTES)
        except MultipartError as exc:
            raise self._broken(exc) from exc
        self._last_part_s = self._second_s = clock.monotonic_s()
        self._parts_in_second = 0

    async def next_picture(self, due_s: float) -> Picture:
        """Return the newest picture once one is due; those before it are passed over."""
        newest: Picture | None = None
        while newest is None or self._clock.monotonic_s() < due_s:
            now_s = self._clock.monotonic_s()
            silent_at_s = self._last_part_s + _SILENT_AFTER_S
            if now_s >= silent_at_s:
                raise stream_error("timeout", f"No picture for {_SILENT_AFTER_S:g} s", where=self._where)
            chunk = await self._chunk((silent_at_s if newest is None else min(due_s, silent_at_s)) - now_s)
            if chunk:
                newest = self._newest_of(chunk) or newest
        return newest

    async def _chunk(self, timeout_s: float) -> bytes:
        """Return what has arrived; empty where nothing did in that time."""
        try:
            async with asyncio.timeout(timeout_s):
                chunk = await self._response.content.readany()
        except TimeoutError:
            return b""
        if not chunk:
            raise stream_error("ended", where=self._where)
        return chunk

    def _newest_of(self, chunk: bytes) -> Picture | None:
        try:
            parts = self._parser.feed(chunk)
        except MultipartError as exc:
            raise self._broken(exc) from exc
        if not parts:
            return None
        now_s = self._last_part_s = self._clock.monotonic_s()
        if now_s - self._second_s >= 1:
            self._second_s, self._parts_in_second = now_s, 0
        self._parts_in_second += len(parts)
        if self._parts_in_second > _MAX_PARTS_PER_S:  # else a flood of tiny parts would keep the processor busy
            raise self._broken(MultipartError(f"over {_MAX_PARTS_PER_S} parts came in a second"))
        return Picture(parts[-1], now_s, self._clock.utc_s())

    def _broken(self, exc: MultipartError) -> Exception:
        return stream_error("corrupt", f"The stream of pictures is refused: {exc}", where=self._where)
