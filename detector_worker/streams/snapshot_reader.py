"""A camera that is asked for one picture at a time over HTTP."""

import asyncio
import struct
import threading
from itertools import count
from typing import Final, cast

import aiohttp
import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from detector_worker.core.addresses import Address
from detector_worker.core.clock import Clock
from detector_worker.core.frame import Frame
from detector_worker.streams.stream_errors import stream_error, translated

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
        camera_id: str,
        stopping: threading.Event,
        *,
        clock: Clock,
        interval_s: float = 1.0,
        timeout_s: float = 5.0,
    ) -> None:
        """Prepare; ``timeout_s`` is for one picture, from the connection to its last byte."""
        self._address, self._camera_id, self._stopping, self._clock = address, camera_id, stopping, clock
        self._where = f"camera {camera_id}, {address}"
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._numbers = count(1)
        self._runner: asyncio.Runner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._due_s: float | None = None

    def connect(self) -> None:
        """Make the loop; the first picture opens the connection, which the next ones use again."""
        self._runner = asyncio.Runner()

    def read_frame(self) -> Frame | None:
        """Wait until the next picture is due and fetch it; None once ``stopping`` is set."""
        if not self.schedule_next():
            return None
        data = self.fetch_snapshot()
        time_s, captured_at = self._clock.monotonic_s(), self._clock.utc_s()
        image = self.decode_image(data)
        return Frame(
            image, camera_id=self._camera_id, frame_id=next(self._numbers), time_s=time_s, captured_at=captured_at
        )

    def handle_reconnection(self) -> None:
        """Close the connection and prepare a new one."""
        self.close()
        self.connect()

    def close(self) -> None:
        """Close the connection and the loop."""
        if self._runner is not None:
            with self._runner:
                if self._session is not None:
                    self._runner.run(self._session.close())
        self._runner = self._session = None

    def schedule_next(self) -> bool:
        """Wait for the next due time, which does not drift; a late picture starts a new pace. False: stopping."""
        now_s = self._clock.monotonic_s()
        self._due_s = now_s if self._due_s is None else max(now_s, self._due_s + self._interval_s)
        return not self._stopping.wait(self._due_s - now_s)

    def fetch_snapshot(self) -> bytes:
        """Fetch one picture as the camera sends it."""
        runner = self._runner
        if runner is None:
            raise stream_error("ended", where=self._where)
        return translated(lambda: runner.run(self._fetch()), where=self._where)

    def decode_image(self, data: bytes) -> NDArray[np.uint8]:
        """Decode a JPEG or PNG picture, whose size is checked first; shape (H, W, 3), uint8 BGR."""
        try:
            if data.startswith(_JPEG_START):
                height, width, *_ = simplejpeg.decode_jpeg_header(data)
                self._check_pixels(width, height)
                return cast("NDArray[np.uint8]", simplejpeg.decode_jpeg(data, colorspace="BGR"))
            if data.startswith(_PNG_START):
                self._check_pixels(*struct.unpack_from(">II", data, 16))
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
                if image is None:
                    raise ValueError("OpenCV cannot read it")
                return cast("NDArray[np.uint8]", image)
        except (ValueError, struct.error) as exc:
            raise stream_error("corrupt", f"The picture is damaged: {exc}", where=self._where) from exc
        raise stream_error("codec", "The answer is neither JPEG nor PNG", where=self._where)

    async def _fetch(self) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s))
        data = bytearray()
        # A redirect could lead where the address check would not have let us go.
        async with self._session.get(self._address.secret(), allow_redirects=False) as response:
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
