"""What an object looks like, in a few numbers: they tell a red car from a white one, not two white ones."""

from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import Shot

__all__ = ["Histogram", "appearance_of", "describe", "likeness"]

Histogram = NDArray[np.float32]

_SAMPLE_WH: Final = (32, 32)
_CENTRAL: Final = slice(4, 28)  # the middle of a box is the object; its rim is the street
_HUES: Final = 12
_GREYS: Final = 6
_COLOURFUL: Final = 60  # saturation, of 255, from which a pixel's hue means something
_SPREAD: Final = np.array([1, 4, 6, 4, 1], np.float32) / 16


def appearance_of(shot: Shot) -> Histogram | None:
    """Describe the object of a picture."""
    box = shot.detections[0].bounding_box
    return describe(shot.frame.crop((int(box.x1), int(box.y1), int(box.x2), int(box.y2))))


def describe(crop: NDArray[np.uint8]) -> Histogram | None:
    """Count the colours of a BGR crop: hues of the colourful pixels, brightness of the others; None if it is empty."""
    if not crop.size:
        return None
    sample = cv2.resize(crop, _SAMPLE_WH, interpolation=cv2.INTER_AREA)[_CENTRAL, _CENTRAL]
    hue, saturation, value = cv2.split(cv2.cvtColor(sample, cv2.COLOR_BGR2HSV))
    # A dark pixel's hue is noise whatever its saturation.
    colourful = (saturation >= _COLOURFUL) & (value >= _COLOURFUL)
    by_hue = np.bincount(hue[colourful].astype(np.intp) * _HUES // 180, minlength=_HUES)
    by_value = np.bincount(value[~colourful].astype(np.intp) * _GREYS // 256, minlength=_GREYS)
    counts = np.concatenate((by_hue, by_value)).astype(np.float32)
    return cast("Histogram", counts / counts.sum())


def likeness(first: Histogram, second: Histogram) -> float:
    """Return how alike two descriptions are, 0 to 1: the Bhattacharyya coefficient of their smoothed counts."""
    return float(np.sqrt(_smoothed(first) * _smoothed(second)).sum())


def _smoothed(histogram: Histogram) -> Histogram:
    """Spread each count over its neighbours, so that a slight change of light moves nothing far; hues are a ring."""
    hues = np.convolve(np.pad(histogram[:_HUES], 2, mode="wrap"), _SPREAD, mode="valid")
    greys = np.convolve(np.pad(histogram[_HUES:], 2, mode="edge"), _SPREAD, mode="valid")
    spread = np.concatenate((hues, greys))
    return cast("Histogram", spread / spread.sum())
