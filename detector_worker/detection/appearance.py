"""What an object looks like, in 82 numbers: they tell a red car from a white one, and a van from a saloon.

Two looks at one crop. Its colours say the most wherever the object stands; how light and dark lie in it says more of
an object that stands where it stood, and stays the same when the light changes as a whole.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import Shot

__all__ = ["ALIKE", "ALIKE_IN_PLACE", "NUMBERS", "Appearance", "appearance_of", "describe", "likeness"]

Appearance = NDArray[np.float32]
"""Shape (82,), unit length: the two looks one after the other, each as long as the square root of its worth."""

NUMBERS: Final = 82
ALIKE_IN_PLACE: Final = 0.9
"""The same of what stands where it stood a moment ago: one vehicle is hardly ever less like itself."""
ALIKE: Final = 0.87
"""From this likeness on two may be one object; measured, see the folder's README."""

_SAMPLE_WH: Final = (32, 32)
_LEAST_SIDE_PX: Final = 64  # pixels are left out of larger crops: averaging all of a large one takes milliseconds
_CENTRAL: Final = slice(4, 28)  # the middle of a box is the object; its rim is the street
_HUES: Final = 12
_GREYS: Final = 6
_MEAN: Final = 110.0  # what crops' mean brightness is brought to: exposure and clouds change it most
_GREY, _COLOURFUL = 25, 65
"""From 0 to 255, the most of the primaries less the least: a pixel is grey up to one, has a hue from the other on."""
_SPREAD: Final = np.array([1, 4, 6, 4, 1], np.float32) / 16
_PATTERN_WH: Final = (8, 8)
_FLAT: Final = 3.0  # grey levels of deviation: less is hardly a pattern
_WORTH_OF_COLOURS: Final = 0.85  # measured: from 0.8 to 0.9 it hardly matters


def appearance_of(shot: Shot) -> Appearance | None:
    """Describe the object of a picture."""
    box = shot.detections[0].bounding_box
    return describe(shot.frame.crop((int(box.x1), int(box.y1), int(box.x2), int(box.y2))))


def describe(crop: NDArray[np.uint8]) -> Appearance | None:
    """Describe a BGR crop, shape (H, W, 3); None if it is empty."""
    if not crop.size:
        return None
    step = max(1, min(crop.shape[:2]) // _LEAST_SIDE_PX)
    small = np.asarray(cv2.resize(crop[::step, ::step], _SAMPLE_WH, interpolation=cv2.INTER_AREA), np.uint8)
    sample = small[_CENTRAL, _CENTRAL]
    colours, pattern = _colours(sample), _pattern(sample)
    worth = _WORTH_OF_COLOURS
    return np.concatenate((colours * worth**0.5, pattern * (1 - worth) ** 0.5)).astype(np.float32)


def likeness(first: Appearance, second: Appearance) -> float:
    """Return how alike two descriptions are, at most 1; 1 too where one is of another length: an older version's.

    It is the mean, by their worth, of the Bhattacharyya coefficient of the colours and the correlation of the patterns.
    """
    return float(first @ second) if first.shape == second.shape else 1.0


def _colours(sample: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Count hues of what is colourful and brightness of the rest; returns square roots of shares, unit length.

    No pixel falls to one side or the other by a hair: each is shared out between grey and colourful and between
    neighbouring bins, and the counts are smoothed, so that a slight change of light moves little. Brightness counts
    relative to the crop's own.
    """
    exposed = cv2.convertScaleAbs(sample, alpha=_MEAN / (float(sample.mean()) + 1))
    hsv = cv2.cvtColor(exposed, cv2.COLOR_BGR2HSV_FULL).reshape(-1, 3).astype(np.float64)
    hue, saturation, value = hsv.T
    colourful = np.clip((saturation * value / 255 - _GREY) / (_COLOURFUL - _GREY), 0, 1)
    by_hue = _counts(hue * (_HUES / 256), colourful, _HUES + 1)
    by_hue[0] += by_hue[-1]  # hues are a ring
    by_value = _counts(value * ((_GREYS - 1) / 255), 1 - colourful, _GREYS + 1)
    hues = np.convolve(np.pad(by_hue[:-1], 2, mode="wrap"), _SPREAD, mode="valid")
    greys = np.convolve(np.pad(by_value[:-1], 2, mode="edge"), _SPREAD, mode="valid")
    counts = np.concatenate((hues, greys))
    return np.asarray(np.sqrt(counts / counts.sum()))


def _counts(places: NDArray[np.float64], weights: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Share each weight out between the two bins next to its place; shape (bins,)."""
    lower = places.astype(np.intp)
    share = places - lower
    both = np.concatenate((lower, lower + 1)), np.concatenate((weights * (1 - share), weights * share))
    return np.asarray(np.bincount(*both, bins), np.float64)


def _pattern(sample: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return a small grey picture without its mean and contrast: shape (64,), unit length."""
    grey = cv2.resize(cv2.cvtColor(sample, cv2.COLOR_BGR2GRAY), _PATTERN_WH, interpolation=cv2.INTER_AREA)
    # All but without its mean: so a crop with hardly any pattern is like what has none, whatever noise there is in it.
    pattern = np.asarray(grey, np.float64).ravel() - float(grey.mean()) + _FLAT
    return np.asarray(pattern / np.linalg.norm(pattern), np.float64)
