"""One picture of one camera, kept as it was decoded until somebody needs it otherwise."""

import threading
from typing import cast

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

__all__ = ["Frame", "FrameScaler", "PairedFrame"]

Region = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels of the full frame."""

_LUMA_FIRST = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "nv21", "gray"})
"""Pixel formats whose first plane is a brightness of one byte for each pixel."""


class FrameScaler:
    """swscale with its state, kept from frame to frame. One per thread: it is not thread-safe."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def to_bgr(self, picture: av.VideoFrame, wh: tuple[int, int]) -> NDArray[np.uint8]:
        """Convert and resize in one step; returns (H, W, 3) uint8 BGR."""
        width, height = wh
        scaled = self._reformatter.reformat(picture, width, height, "bgr24", interpolation="BILINEAR")
        return cast("NDArray[np.uint8]", scaled.to_ndarray())

    def to_luma(self, picture: av.VideoFrame, wh: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the brightness in another size, averaged over areas: shape (H, W), uint8."""
        width, height = wh
        scaled = self._reformatter.reformat(picture, width, height, "gray", interpolation="AREA", threads=1)
        return cast("NDArray[np.uint8]", scaled.to_ndarray())


class Frame:
    """One picture of one camera with its times. Immutable but for the lazily made BGR picture; thread-safe."""

    __slots__ = ("_bgr", "_lock", "_picture", "camera_id", "captured_at", "frame_id", "time_s")

    def __init__(
        self,
        picture: av.VideoFrame | NDArray[np.uint8],
        *,
        camera_id: str,
        frame_id: int,
        time_s: float,
        captured_at: float,
    ) -> None:
        """Wrap a picture as decoded, or BGR of shape (H, W, 3), uint8.

        ``time_s`` is the lane's clock (monotonic for cameras, media time for files), ``captured_at`` seconds
        since 1970, UTC.
        """
        self._picture = picture
        self._bgr = picture if isinstance(picture, np.ndarray) else None
        self._lock = threading.Lock()
        self.camera_id = camera_id
        self.frame_id = frame_id
        self.time_s = time_s
        self.captured_at = captured_at

    def seen_as(self, camera_id: str) -> "Frame":
        """Return this picture under another camera's name: two cameras may share one address."""
        if camera_id == self.camera_id:
            return self
        return Frame(
            self._picture,
            camera_id=camera_id,
            frame_id=self.frame_id,
            time_s=self.time_s,
            captured_at=self.captured_at,
        )

    @property
    def wh(self) -> tuple[int, int]:
        """Width and height, pixels."""
        if isinstance(self._picture, np.ndarray):
            return self._picture.shape[1], self._picture.shape[0]
        return self._picture.width, self._picture.height

    @property
    def shows_detail(self) -> bool:
        """Whether crops are as sharp as the camera can give them."""
        return True

    def bgr(self) -> NDArray[np.uint8]:
        """Return the whole picture, shape (H, W, 3), uint8 BGR; made at the first call. Do not write to it."""
        with self._lock:
            if self._bgr is None:
                self._bgr = FrameScaler().to_bgr(cast("av.VideoFrame", self._picture), self.wh)
            return self._bgr

    def luma(self, wh: tuple[int, int], scaler: FrameScaler) -> NDArray[np.uint8]:
        """Return the picture's brightness in another size, shape (H, W), uint8; no BGR picture is made of a YUV one."""
        if isinstance(self._picture, av.VideoFrame):
            return scaler.to_luma(self._picture, wh)
        small = cv2.resize(self._picture, wh, interpolation=cv2.INTER_AREA)
        return cast("NDArray[np.uint8]", cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))

    def crop(self, region: Region) -> NDArray[np.uint8]:
        """Return a view of a region, clipped to the frame; shape (H, W, 3), uint8 BGR, H or W may be 0."""
        x1, y1, x2, y2 = region
        return self.bgr()[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)]

    def luma_of(self, region: Region) -> NDArray[np.uint8]:
        """Return the brightness of a region, clipped to the frame; shape (H, W), uint8, H or W may be 0.

        It is a view of a YUV picture as decoded: nothing is converted. Do not write to it.
        """
        picture = self._picture
        if isinstance(picture, av.VideoFrame) and picture.format.name in _LUMA_FIRST:
            plane, (x1, y1, x2, y2) = picture.planes[0], (max(0, side) for side in region)
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            return rows[y1 : min(y2, picture.height), x1 : min(x2, picture.width)]
        crop = self.crop(region)
        return cast("NDArray[np.uint8]", cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY) if crop.size else crop[..., 0])

    def resized(self, wh: tuple[int, int], scaler: FrameScaler, *, region: Region | None = None) -> NDArray[np.uint8]:
        """Return the picture, or a region of it, in another size: shape (H, W, 3), uint8 BGR.

        The whole picture goes straight from YUV to the wanted size, without a full BGR picture between.
        """
        if region is None and isinstance(self._picture, av.VideoFrame):
            return scaler.to_bgr(self._picture, wh)
        source = self.bgr() if region is None else self.crop(region)
        return cast("NDArray[np.uint8]", cv2.resize(source, wh, interpolation=cv2.INTER_LINEAR))


class PairedFrame(Frame):
    """A picture that is analysed in the pixels of the same camera's large one, from which crops are taken."""

    __slots__ = ("_large", "_large_is_coming", "_small", "_wh")

    def __init__(
        self, small: Frame, large: Frame | None, wh: tuple[int, int], *, large_is_coming: bool = False
    ) -> None:
        """Pair them; without the large picture, whose size is ``wh``, crops come from the small one."""
        super().__init__(
            small._picture,
            camera_id=small.camera_id,
            frame_id=small.frame_id,
            time_s=small.time_s,
            captured_at=small.captured_at,
        )
        self._small, self._large, self._wh, self._large_is_coming = small, large, wh, large_is_coming

    def seen_as(self, camera_id: str) -> Frame:
        small = self._small.seen_as(camera_id)
        return PairedFrame(small, self._large, self._wh, large_is_coming=self._large_is_coming)

    @property
    def wh(self) -> tuple[int, int]:
        return self._wh

    @property
    def shows_detail(self) -> bool:
        return self._large is not None or not self._large_is_coming

    def bgr(self) -> NDArray[np.uint8]:
        if self._large is not None:
            return self._large.bgr()
        with self._lock:
            if self._bgr is None or self._bgr.shape[1::-1] != self._wh:
                large = cv2.resize(self._small.bgr(), self._wh, interpolation=cv2.INTER_LINEAR)
                self._bgr = cast("NDArray[np.uint8]", large)
            return self._bgr

    def luma_of(self, region: Region) -> NDArray[np.uint8]:
        """Return the brightness of a region of the picture that crops come from, in that picture's own pixels."""
        return self._small.luma_of(self._in_small(region)) if self._large is None else self._large.luma_of(region)

    def resized(self, wh: tuple[int, int], scaler: FrameScaler, *, region: Region | None = None) -> NDArray[np.uint8]:
        return self._small.resized(wh, scaler, region=None if region is None else self._in_small(region))

    def _in_small(self, region: Region) -> Region:
        scale_x, scale_y = (small / large for small, large in zip(self._small.wh, self._wh, strict=True))
        x1, y1, x2, y2 = region
        return round(x1 * scale_x), round(y1 * scale_y), round(x2 * scale_x), round(y2 * scale_y)
