"""How a part of a frame is fitted into a model's input, and how boxes find the way back. Pure geometry."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.frame import Region
from detector_worker.models.model_reading import LetterboxMode

__all__ = ["Letterbox", "fit_letterbox", "remove_letterbox"]


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a region of a frame lies in a model's input."""

    region: Region
    input_hw: tuple[int, int]
    content_wh: tuple[int, int]
    """Size of the resized region, model-input pixels."""
    pad_xy: tuple[int, int]
    """Its left upper corner, model-input pixels."""


def fit_letterbox(region: Region, input_hw: tuple[int, int], mode: LetterboxMode) -> Letterbox:
    """Fit a region, not empty, into an input: proportions kept and centred or at the top left, or stretched."""
    (x1, y1, x2, y2), (input_h, input_w) = region, input_hw
    if mode == "none":
        return Letterbox(region, input_hw, (input_w, input_h), (0, 0))
    scale = min(input_w / (x2 - x1), input_h / (y2 - y1))
    width = min(input_w, max(1, round((x2 - x1) * scale)))
    height = min(input_h, max(1, round((y2 - y1) * scale)))
    pad_xy = ((input_w - width) // 2, (input_h - height) // 2) if mode == "center" else (0, 0)
    return Letterbox(region, input_hw, (width, height), pad_xy)


def remove_letterbox(xyxy: NDArray[np.float32], letterbox: Letterbox) -> NDArray[np.float32]:
    """Map boxes, shape (N, 4), from the model's input back to the frame, clipped to the region."""
    corner, end = np.split(np.array(letterbox.region, np.float32), 2)
    scale = (end - corner) / np.array(letterbox.content_wh, np.float32)
    points = (xyxy.reshape(-1, 2) - np.array(letterbox.pad_xy, np.float32)) * scale + corner
    return points.clip(corner, end).reshape(-1, 4)
