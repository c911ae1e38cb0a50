"""A camera that is asked for one picture at a time over HTTP."""

import asyncio
import struct
import threading
from typing import Final, cast

import aiohttp
import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from detector_worker.core.addresses import Address
from detector_worker.core.clock import Clock
from detector_worker.core.exceptions import StreamError
from detector_worker.core.frame import Frame
from detector_worker.streams.frame_stamper import FrameStamper
from detector_worker.streams.stream_errors import stream_error

__all__ = ["HTTPSnapshotReader"]

_MAX_IMAGE_BYTES: Final = 32 * 2**20
_MAX_PIXELS: Final = 40_000_000
_CHUNK_BYTES: Final = 65_536
_JPEG_START: Final = b"\xff\xd8\xff"
_PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_BY_STATUS: Final = {401: "authentication", 403: "authentication", 404: "not_found", 410: "not_found"}


class HTTPSnapshotReader:
    """Fetches JPEG or PNG pictures at an even pace. Has an event loop of its own, in its reader's thread."""

    def __init__(
        self,
        address: Address,
        stamper: FrameStamper,
        *,
        clock: Clock,
        stopping: threading.Event,
        interval_s: float = 1.0,
        timeout_s: float = 5.0,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            address: Of the picture, credentials included.
            stamper: Numbers the frames.
            clock: Of arrival, and of the pace.
            stopping: Once set, waiting ends and `read_frame` returns None.
            interval_s: From one picture to the next.
            timeout_s: For one picture, from the connection to its last byte.
        """
        self._address, self._stamper, self._clock, self._stopping = address, stamper, clock, stopping
        self._where = f"camera {stamper.camera_id}, {address}"
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._runner: asyncio.Runner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._due_s: float | None = None

    def connect(self) -> None:
        """Prepare the connection, which the first picture opens and the next ones use again."""
        self._runner = asyncio.Runner()
        self._session = self._runner.run(self._new_session())

    def read_frame(self) -> Frame | None:
        """Wait until the next picture is due and fetch it; None once the reader is stopping.

        Raises:
            StreamError: The camera did not give a picture.
        """
        if not self.schedule_next():
            return None
        data = self.fetch_snapshot()
        arrived_s, captured_at = self._clock.monotonic_s(), self._clock.utc_s()
        return self._stamper.stamp(self.decode_image(data), time_s=arrived_s, captured_at=captured_at)

    def handle_reconnection(self) -> None:
        """Close the connection and prepare a new one."""
        self.close()
        self.connect()

    def close(self) -> None:
        """Close the connection and the loop."""
        runner, session = self._runner, self._session
        self._runner = self._session = None
        if runner is not None and session is not None:
            with runner:
                runner.run(session.close())

    def schedule_next(self) -> bool:
        """Wait for the next due time, which does not drift; a late picture starts a new pace. False: stopping."""
        now_s = self._clock.monotonic_s()
        self._due_s = now_s if self._due_s is None else max(now_s, self._due_s + self._interval_s)
        return not self._stopping.wait(self._due_s - now_s)

    def fetch_snapshot(self) -> bytes:
        """Fetch one picture as the camera sends it.

        Raises:
            StreamError: No answer in time, another status than 200, or too large.
        """
        if self._runner is None or self._session is None:
            raise stream_error("ended", where=self._where)
        try:
            return self._runner.run(self._fetch(self._session))
        except (aiohttp.ClientError, OSError) as exc:
            error = self._translated(exc)
        raise error  # here, since aiohttp's errors quote the address

    def decode_image(self, data: bytes) -> NDArray[np.uint8]:
        """Decode a JPEG or PNG picture, whose size is checked first.

        Returns:
            Shape (H, W, 3), uint8 BGR.

        Raises:
            StreamError: ``codec`` where it is neither, ``corrupt`` where it is damaged or too large.
        """
        try:
            if data.startswith(_JPEG_START):
                height, width, *_ = simplejpeg.decode_jpeg_header(data)
                self._check_pixels(width, height)
                return cast("NDArray[np.uint8]", simplejpeg.decode_jpeg(data, colorspace="BGR"))
            if data.startswith(_PNG_START):
                self._check_pixels(*struct.unpack_from(">II", data, 16))
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                if image is not None:
                    return cast("NDArray[np.uint8]", image)
                raise stream_error("corrupt", "The PNG picture is damaged", where=self._where)
        except (ValueError, struct.error) as exc:
            raise stream_error("corrupt", f"The picture is damaged: {exc}", where=self._where) from exc
        raise stream_error("codec", "The answer is neither JPEG nor PNG", where=self._where)

    async def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s))

    async def _fetch(self, session: aiohttp.ClientSession) -> bytes:
        data = bytearray()
        # A redirect could lead where the address check would not have let us go.
        async with session.get(self._address.secret(), allow_redirects=False) as response:
            if response.status != 200:
                what = f"The camera answers with HTTP status {response.status}"
                raise stream_error(_BY_STATUS.get(response.status, "refused"), what, where=self._where)
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                data += chunk
                if len(data) > _MAX_IMAGE_BYTES:
                    raise stream_error("corrupt", f"The picture has over {_MAX_IMAGE_BYTES} bytes", where=self._where)
        return bytes(data)

    def _check_pixels(self, width: int, height: int) -> None:
        if not 0 < width * height <= _MAX_PIXELS:
            raise stream_error("corrupt", f"The picture claims {width} x {height} pixels", where=self._where)

    def _translated(self, exc: aiohttp.ClientError | OSError) -> StreamError:
        match exc:
            case TimeoutError():
                return stream_error("timeout", where=self._where)
            case aiohttp.ClientSSLError() | aiohttp.ServerFingerprintMismatch():
                return stream_error("tls", where=self._where)
            case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
                return stream_error("refused", "The camera refuses the connection", where=self._where)
            case aiohttp.ClientConnectorError():
                return stream_error("unreachable", where=self._where)
            case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
                return stream_error("ended", where=self._where)
            case _:
                return stream_error("refused", "The camera does not speak HTTP", where=self._where)
