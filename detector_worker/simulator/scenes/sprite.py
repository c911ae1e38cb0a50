"""A cut-out picture, and how it is laid onto another one."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Sprite", "paste"]

Area = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Sprite:
    """A picture with the place of its upper left corner."""

    image: NDArray[np.uint8]
    """Shape (H, W, 4): BGR premultiplied with opacity; shadows are black of little opacity."""
    left: int
    top: int

    def areas(self, hw: tuple[int, int], margin: int) -> tuple[Area, Area] | None:
        """Return the part of a canvas of size ``hw`` that it covers, and the part of itself; None: it lies outside."""
        left, top = self.left + margin, self.top + margin
        height, width = self.image.shape[:2]
        y1, y2, x1, x2 = max(0, top), min(hw[0], top + height), max(0, left), min(hw[1], left + width)
        if y1 >= y2 or x1 >= x2:
            return None
        return (slice(y1, y2), slice(x1, x2)), (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))


def paste(canvas: NDArray[np.uint8], image: NDArray[np.uint8]) -> None:
    """Lay a premultiplied picture, shape (H, W, 4), over a part of the canvas, shape (H, W, 3)."""
    through = cv2.cvtColor(cv2.bitwise_not(cv2.extractChannel(image, 3)), cv2.COLOR_GRAY2BGR)
    kept = cv2.multiply(canvas, through, scale=1 / 255)
    cv2.add(kept, cv2.cvtColor(image, cv2.COLOR_BGRA2BGR), dst=kept)
    canvas[:] = kept
