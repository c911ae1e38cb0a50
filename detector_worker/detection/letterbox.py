"""How a picture is fitted into a model's input, and how boxes find the way back. Pure geometry."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector_worker.models.model_reading import LetterboxMode

__all__ = ["Letterbox", "fit_letterbox", "remove_letterbox"]


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a picture lies in the model's input, all in model-input pixels.

    Attributes:
        content_wh: Width and height of the resized picture.
        pad_xy: Its left upper corner.
        scale_xy: Input pixels per picture pixel, > 0; the axes differ by rounding, or where nothing is padded.
    """

    content_wh: tuple[int, int]
    pad_xy: tuple[int, int]
    scale_xy: tuple[float, float]


def fit_letterbox(source_wh: tuple[int, int], input_hw: tuple[int, int], mode: LetterboxMode) -> Letterbox:
    """Fit a picture into an input: proportions kept and centred or at the top left, or (``none``) stretched.

    Args:
        source_wh: Width and height of the picture, > 0.
        input_hw: Height and width of the input, > 0.
        mode: Where the picture goes.
    """
    (source_w, source_h), (input_h, input_w) = source_wh, input_hw
    content_w, content_h = input_w, input_h
    if mode != "none":
        scale = min(input_w / source_w, input_h / source_h)
        content_w = min(input_w, max(1, round(source_w * scale)))
        content_h = min(input_h, max(1, round(source_h * scale)))
    pad_xy = ((input_w - content_w) // 2, (input_h - content_h) // 2) if mode == "center" else (0, 0)
    return Letterbox((content_w, content_h), pad_xy, (content_w / source_w, content_h / source_h))


def remove_letterbox(xyxy: NDArray[np.float32], letterbox: Letterbox) -> NDArray[np.float32]:
    """Map boxes from the model's input back to the picture.

    Args:
        xyxy: Boxes, shape (N, 4), float32, model-input pixels. N may be 0.
        letterbox: As the picture was fitted.

    Returns:
        Boxes, shape (N, 4), float32, picture pixels, not clipped.

    Source:
        Inverse of `fit_letterbox`.
    """
    offset = np.array(letterbox.pad_xy * 2, np.float32)
    scale = np.array(letterbox.scale_xy * 2, np.float32)
    return (xyxy - offset) / scale
