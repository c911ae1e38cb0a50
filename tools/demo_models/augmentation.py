"""What a camera and a day may do to a sample: light, noise, blur, compression, and for pictures another framing."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from demo_models.tasks import DETECTOR_HW, PICTURE_WH

__all__ = ["Augmentation"]

Image = NDArray[np.uint8]
Objects = NDArray[np.float32]

_GREY: Final = 114
_NOISE_SIDE_PX: Final = 1024
_LEAST_LEFT: Final = 0.5
"""An object of which the new framing leaves less is neither asked for nor forbidden."""


class Augmentation:
    """Changes samples at random. Not thread-safe."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        shape = (_NOISE_SIDE_PX, _NOISE_SIDE_PX, 3)
        self._noise = self._rng.standard_normal(shape, np.float32)
        cv2.setNumThreads(1)  # the cores are the networks'

    def picture(self, image: Image, objects: Objects) -> tuple[Image, Objects]:
        """Frame a picture of 640 x 360 anew inside the detector's input, and change how it looks.

        Returns:
            The input, shape (384, 640, 3) with grey bars, and the objects in its pixels; rows as in `PictureSamples`.
        """
        rng, (width, height), (input_h, input_w) = self._rng, PICTURE_WH, DETECTOR_HW
        top = (input_h - height) // 2
        scale = rng.uniform(0.8, 1.3) if rng.random() < 0.7 else 1.0
        # Where it grew, any part of it may be seen; where it shrank, it may lie anywhere.
        x, y = (rng.uniform() * (room - room * scale) for room in (width, height))
        is_mirrored = rng.random() < 0.5
        matrix = np.array([[scale, 0, x], [0, scale, y]])
        if is_mirrored:
            matrix[0] = -scale, 0, width - 1 - x
        if scale != 1.0 or is_mirrored:
            image = np.asarray(
                cv2.warpAffine(image, matrix, PICTURE_WH, borderMode=cv2.BORDER_CONSTANT, borderValue=(_GREY,) * 3)
            )
        image = self.looks(image)
        bars = (top, input_h - top - height, 0, input_w - width)
        framed = cv2.copyMakeBorder(image, *bars, cv2.BORDER_CONSTANT, value=(_GREY,) * 3)
        return np.asarray(framed, np.uint8), _reframed(objects, scale, (x, y), top, is_mirrored=is_mirrored)

    def crop(self, image: Image, *, may_mirror: bool) -> Image:
        """Shift, stretch and perhaps mirror a crop by a little, and change how it looks."""
        rng, (height, width) = self._rng, image.shape[:2]
        if rng.random() < 0.5:
            stretch, slant = rng.normal(1, 0.03, 2), rng.normal(0, 0.02, 2)
            centre = np.array((width, height)) / 2
            linear = np.array(((stretch[0], slant[0]), (slant[1] * height / width, stretch[1])))
            shift = centre - linear @ centre + rng.normal(0, 0.02, 2) * (width, height)
            matrix = np.column_stack((linear, shift))
            image = np.asarray(cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE))
        if may_mirror and rng.random() < 0.5:
            image = image[:, ::-1]
        return self.looks(image)

    def looks(self, image: Image) -> Image:
        """Change light, colour, sharpness, noise and compression; shape and geometry stay."""
        rng = self._rng
        if rng.random() < 0.15:
            image = np.asarray(cv2.GaussianBlur(image, (3, 3), rng.uniform(0.4, 1.1)))
        if rng.random() < 0.8:
            image = np.asarray(cv2.LUT(image, self._curves()))
        if rng.random() < 0.5:
            height, width = image.shape[:2]
            row, column = rng.integers(0, (_NOISE_SIDE_PX - height, _NOISE_SIDE_PX - width))
            noise = self._noise[row : row + height, column : column + width] * rng.uniform(1, 9)
            image = np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U))
        if rng.random() < 0.25:
            encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(45, 90))])[1]
            image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
        return image

    def _curves(self) -> Image:
        """Draw a gamma, contrast and brightness, a little different in each colour; shape (1, 256, 3)."""
        rng = self._rng
        level = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.normal(0, 0.25))
        gain, offset = np.exp(rng.normal(0, 0.15)), rng.normal(0, 0.05)
        cast = np.exp(rng.normal(0, 0.04, 3))
        curves = ((level - 0.5) * gain + 0.5 + offset) * cast * 255
        return np.asarray(curves.clip(0, 255)[None], np.uint8)


def _reframed(objects: Objects, scale: float, shift: tuple[float, float], top: int, *, is_mirrored: bool) -> Objects:
    """Follow objects into a new framing: clipped to the picture, those that are gone left out."""
    (width, height), xyxy = PICTURE_WH, objects[:, 1:5] * np.float32(scale) + np.array(shift * 2, np.float32)
    if is_mirrored:
        xyxy = np.stack((width - xyxy[:, 2], xyxy[:, 1], width - xyxy[:, 0], xyxy[:, 3]), axis=1)
    clipped = xyxy.clip(0, np.array((width, height) * 2, np.float32))
    before, after = (np.prod(one[:, 2:] - one[:, :2], axis=1) for one in (xyxy, clipped))
    left = after / np.maximum(before, 1e-6)
    certain = objects[:, 5] * (left >= _LEAST_LEFT)
    clipped[:, 1::2] += top
    is_there = (clipped[:, 2:] - clipped[:, :2] >= 1).all(axis=1)
    return np.asarray(np.column_stack((objects[:, 0], clipped, certain))[is_there], np.float32)
