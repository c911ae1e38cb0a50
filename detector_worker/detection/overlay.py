"""What was seen, drawn into the picture: tracked boxes, what the branches said, and what is not looked at."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import DetectionResult, Detections, FieldValue
from detector_worker.core.frame import Frame

__all__ = ["TrackSayings", "draw_overlay"]

_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_NOT_SAID: Final = frozenset({"confidence", "error", "type"})
_UNSEEN_BRIGHTNESS: Final = 0.6
_MAX_TRACKS: Final = 1000
_Box = Sequence[float]
"""x1, y1, x2, y2 in pixels of the frame."""


class TrackSayings:
    """What the branches said of the last thousand tracks. Noted by one thread; `by_track` may be asked by any."""

    def __init__(self) -> None:
        self._by_track: dict[int, str] = {}

    @property
    def by_track(self) -> dict[int, str]:
        """A copy: texts by track id."""
        return self._by_track.copy()

    def note(self, detections: Sequence[DetectionResult], branches: Mapping[str, Mapping[str, FieldValue]]) -> None:
        """Take a finished run: its detections, the whole object first, and its branches' results."""
        track_id = detections[0].track_id if detections else None
        if track_id is None:
            return
        said = (value for branch in branches.values() for key, value in branch.items() if key not in _NOT_SAID)
        self._by_track.pop(track_id, None)  # the newest one comes last
        self._by_track[track_id] = " ".join(str(value) for value in said if value is not None)
        if len(self._by_track) > _MAX_TRACKS:
            del self._by_track[next(iter(self._by_track))]


def draw_overlay(
    frame: Frame,
    detections: Detections,
    sayings: Mapping[int, str],
    *,
    region: _Box | None = None,
    ignored: Sequence[_Box] = (),
) -> NDArray[np.uint8]:
    """Return a copy of a frame's picture with its tracked boxes. Blocks for some milliseconds.

    Args:
        frame: The frame in which the detections were made.
        detections: With their ``track_id``; what belongs to no track is left out.
        sayings: What stands beside class and id, by track id.
        region: The only one that was looked at, if there is one; what is outside is dimmed.
        ignored: Regions in which nothing counts; they are dimmed too.

    Returns:
        Shape (H, W, 3), uint8 BGR.
    """
    image = frame.bgr().copy()
    if region is not None or ignored:
        _dim(image, region, ignored)
    for row, detection in enumerate(detections.results(frame.captured_at)):
        track_id = detection.track_id
        if track_id is not None:
            label = f"{track_id} {detection.class_name} {sayings.get(track_id, '')}".strip()
            _draw_box(image, detections.xyxy[row].astype(int), label, _colour(track_id))
    return image


def _dim(image: NDArray[np.uint8], region: _Box | None, ignored: Sequence[_Box]) -> None:
    is_seen = np.full(image.shape[:2], region is None)
    if region is not None:
        is_seen[_part(region)] = True
    for box in ignored:
        is_seen[_part(box)] = False
    np.copyto(image, cv2.convertScaleAbs(image, alpha=_UNSEEN_BRIGHTNESS), where=~is_seen[..., np.newaxis])


def _part(box: _Box) -> tuple[slice, slice]:
    x1, y1, x2, y2 = (max(0, round(side)) for side in box)
    return slice(y1, y2), slice(x1, x2)


def _colour(track_id: int) -> tuple[int, int, int]:
    """BGR, far from those of the neighbouring ids."""
    red, green, blue = colorsys.hsv_to_rgb(track_id * 0.618 % 1, 0.9, 1.0)
    return int(blue * 255), int(green * 255), int(red * 255)


def _draw_box(image: NDArray[np.uint8], xyxy: NDArray[np.int_], label: str, colour: tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = xyxy.tolist()
    scale = max(0.4, image.shape[0] / 900)
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, 2)
    (width, height), _ = cv2.getTextSize(label, _FONT, scale, 1)
    top = max(y1, height + 6)
    cv2.rectangle(image, (x1, top - height - 6), (x1 + width + 4, top), colour, cv2.FILLED)
    cv2.putText(image, label, (x1 + 2, top - 4), _FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)
