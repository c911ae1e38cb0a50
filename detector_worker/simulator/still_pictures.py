"""Single pictures of what a camera shows, as JPEG or PNG. Belongs to one thread, since decoding takes its time."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import av
import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.simulator.clip import Clip

__all__ = ["FilmStills", "ImageKind", "OneStill", "Still", "Stills"]

ImageKind = Literal["jpeg", "png"]

_QUALITY: Final = 90
_AHEAD_S: Final = 4.0
"""So far it is decoded on; beyond, from the last key frame."""
_EARLY_S: Final = 0.002
"""Times are rounded to 1/90000 s here and to 1/1000 s in some files."""


@dataclass(frozen=True, slots=True)
class Still:
    """A coded picture."""

    data: bytes
    etag: str


class Stills(Protocol):
    """Where pictures come from."""

    def at(self, clip_s: float, kind: ImageKind) -> Still:
        """Return the picture that is to be seen at a second of the clip."""

    def close(self) -> None:
        """Let go of the film."""


class OneStill:
    """Always the same picture; one in the wanted format is given as it is.

    Raises:
        ConfigurationError: It is neither JPEG nor PNG.
    """

    def __init__(self, picture: bytes) -> None:
        image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) if picture else None
        if image is None:
            raise ConfigurationError("The picture cannot be read", where="snapshot", mend="Name a JPEG or a PNG.")
        self._cache = _Cache(np.asarray(image, np.uint8))
        if picture.startswith(b"\xff\xd8"):
            self._cache.put("jpeg", picture)
        elif picture.startswith(b"\x89PNG"):
            self._cache.put("png", picture)

    def at(self, clip_s: float, kind: ImageKind) -> Still:
        return self._cache.get(kind)

    def close(self) -> None:
        pass


class FilmStills:
    """Pictures of a film, decoded one after the other as far as somebody asks, and each encoded once."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._container: av.container.InputContainer | None = None
        self._frames: Iterator[tuple[float, av.VideoFrame]] = iter(())
        self._next: tuple[float, av.VideoFrame] | None = None
        self._shown_s = -1.0
        self._cache: _Cache | None = None

    def at(self, clip_s: float, kind: ImageKind) -> Still:
        """Return the picture that is to be seen at a second of the clip; raise av.FFmpegError where that fails."""
        wanted_s = clip_s + _EARLY_S
        if self._container is None or not 0 <= wanted_s - self._shown_s <= _AHEAD_S:
            self._seek(clip_s)
        frame = None
        while self._next is not None and (self._next[0] <= wanted_s or (self._cache is None and frame is None)):
            self._shown_s, frame = self._next
            self._next = next(self._frames, None)
        if frame is not None:
            self._cache = _Cache(np.asarray(frame.to_ndarray(format="bgr24"), np.uint8))
        if self._cache is None:
            raise ValueError("the film has no picture")
        return self._cache.get(kind)

    def close(self) -> None:
        self._frames, self._next, self._cache = iter(()), None, None
        if self._container is not None:
            self._container.close()
            self._container = None

    def _seek(self, clip_s: float) -> None:
        """Begin at the last key frame before."""
        if self._container is None:
            self._container = av.open(str(self._clip.path), options={"protocol_whitelist": "file"})
            self._container.streams.video[0].codec_context.thread_count = 1
        stream = self._container.streams.video[0]
        if stream.time_base is not None:
            film_s = self._clip.begins_s + clip_s + _EARLY_S
            self._container.seek(int(film_s / stream.time_base), stream=stream, backward=True)
        self._frames = self._decoded(self._container)
        self._cache, self._next = None, next(self._frames, None)

    def _decoded(self, container: av.container.InputContainer) -> Iterator[tuple[float, av.VideoFrame]]:
        for frame in container.decode(video=0):
            if frame.time is not None:
                yield frame.time - self._clip.begins_s, frame


class _Cache:
    """A picture, and what it was encoded as."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self._image = image
        self._stills: dict[ImageKind, Still] = {}

    def put(self, kind: ImageKind, data: bytes) -> Still:
        still = Still(data, f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"')
        self._stills[kind] = still
        return still

    def get(self, kind: ImageKind) -> Still:
        return self._stills.get(kind) or self.put(kind, _encoded(self._image, kind))


def _encoded(image: NDArray[np.uint8], kind: ImageKind) -> bytes:
    if kind == "png":
        return cv2.imencode(".png", image)[1].tobytes()
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=_QUALITY, colorspace="BGR")
    return data
