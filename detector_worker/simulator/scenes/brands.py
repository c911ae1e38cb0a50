"""The faces of eight makers that do not exist: grille, lights and badge of each, as a picture of a vehicle's front."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["BRANDS", "PLATE_ROW", "fascia"]

_FASCIA_WH: Final = (640, 280)
PLATE_ROW: Final = 0.27
"""Height of the plate's middle above the front's lower edge, of its height."""
Colour = tuple[int, int, int]
_DARK: Final[Colour] = (26, 25, 24)
_CHROME: Final[Colour] = (205, 205, 205)
_SHADE: Final[Colour] = (120, 120, 122)
_LENS: Final[Colour] = (235, 232, 226)
_GLOSS: Final[Colour] = (90, 92, 95)


class _Canvas:
    """Draws in fractions of the front: x -1 (left) to 1, y 0 (bottom) to 1. What is not drawn on shows the paint."""

    def __init__(self) -> None:
        self.image = np.zeros((_FASCIA_WH[1], _FASCIA_WH[0], 4), np.uint8)

    def _points(self, points: Sequence[tuple[float, float]]) -> NDArray[np.int32]:
        width, height = _FASCIA_WH
        return np.array([((x + 1) / 2 * width * 16, (1 - y) * height * 16) for x, y in points], np.int32)

    def area(self, points: Sequence[tuple[float, float]], colour: Colour, edge: Colour | None = None) -> None:
        """Fill a polygon; with a rim in another colour."""
        corners = self._points(points)
        cv2.fillPoly(self.image, [corners], (*colour, 255), cv2.LINE_AA, 4)
        if edge is not None:
            cv2.polylines(self.image, [corners], True, (*edge, 255), 6, cv2.LINE_AA, 4)

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: int = 5) -> None:
        """Draw a line."""
        cv2.polylines(self.image, [self._points(points)], False, (*colour, 255), width, cv2.LINE_AA, 4)

    def oval(
        self, centre: tuple[float, float], radii: tuple[float, float], colour: Colour, edge: Colour | None = None
    ) -> None:
        """Fill an ellipse; the radii are fractions of the front's height."""
        turn = np.linspace(0, 2 * np.pi, 40)
        across = radii[0] * 2 * _FASCIA_WH[1] / _FASCIA_WH[0]
        points = [(centre[0] + across * np.cos(a), centre[1] + radii[1] * np.sin(a)) for a in turn]
        self.area(points, colour, edge)

    def both(self, draw: Callable[[float], None]) -> None:
        """Draw the left and the right one."""
        draw(-1.0)
        draw(1.0)

    def badge(self, y: float, colour: Colour, mark: Sequence[tuple[float, float]], radius: float = 0.09) -> None:
        """Draw a round badge with a mark of lines in it, -1 to 1 in both directions."""
        self.oval((0, y), (radius, radius), colour, _CHROME)
        across = radius * 2 * _FASCIA_WH[1] / _FASCIA_WH[0]
        self.line([(x * across * 0.7, y + mark_y * radius * 0.7) for x, mark_y in mark], (245, 245, 245), 5)


def _aurex(c: _Canvas) -> None:
    c.area([(-0.42, 0.62), (-0.3, 0.92), (0.3, 0.92), (0.42, 0.62), (0.3, 0.4), (-0.3, 0.4)], _DARK, _CHROME)
    for x in np.linspace(-0.34, 0.34, 9):
        c.line([(x - 0.06, 0.44), (x + 0.06, 0.88)], _SHADE, 2)
        c.line([(x + 0.06, 0.44), (x - 0.06, 0.88)], _SHADE, 2)
    c.badge(0.68, (140, 40, 30), [(-1, -0.7), (0, 0.9), (1, -0.7)])
    c.both(lambda s: c.area([(s * 0.5, 0.72), (s * 0.97, 0.86), (s * 0.98, 0.76), (s * 0.55, 0.64)], _LENS, _GLOSS))


def _borvik(c: _Canvas) -> None:
    for x in np.linspace(-0.36, 0.36, 7):
        c.area([(x - 0.035, 0.5), (x - 0.035, 0.88), (x + 0.035, 0.88), (x + 0.035, 0.5)], _DARK, _SHADE)
    c.both(lambda s: c.oval((s * 0.7, 0.7), (0.17, 0.17), _LENS, _DARK))
    c.both(lambda s: c.oval((s * 0.7, 0.7), (0.08, 0.08), (250, 250, 250), _SHADE))
    c.area([(-0.1, 0.9), (0.1, 0.9), (0.1, 0.98), (-0.1, 0.98)], (30, 110, 40), _CHROME)


def _celano(c: _Canvas) -> None:
    c.area([(-0.55, 0.5), (-0.55, 0.86), (0.55, 0.86), (0.55, 0.5)], _DARK, _CHROME)
    for y in np.linspace(0.56, 0.8, 4):
        c.line([(-0.52, y), (0.52, y)], _CHROME, 9)
    c.badge(0.68, (160, 110, 20), [(-1, 0), (1, 0), (0, 0), (0, 1), (0, -1)], 0.12)
    c.both(lambda s: c.area([(s * 0.62, 0.56), (s * 0.62, 0.84), (s * 0.96, 0.84), (s * 0.96, 0.56)], _LENS, _DARK))


def _dromar(c: _Canvas) -> None:
    c.both(lambda s: c.oval((s * 0.16, 0.68), (0.15, 0.21), _DARK, _CHROME))
    for x in np.linspace(-0.26, 0.26, 10):
        c.line([(x, 0.54), (x, 0.82)], _SHADE, 3)
    c.badge(0.93, (170, 150, 40), [(-1, -1), (1, 1)], 0.06)
    c.both(lambda s: c.oval((s * 0.58, 0.68), (0.12, 0.12), _LENS, _DARK))
    c.both(lambda s: c.oval((s * 0.83, 0.7), (0.12, 0.12), _LENS, _DARK))


def _estrel(c: _Canvas) -> None:
    c.area([(-0.96, 0.76), (-0.96, 0.84), (0.96, 0.84), (0.96, 0.76)], (250, 245, 240), _GLOSS)
    star = [(np.sin(a) * r, np.cos(a) * r) for a, r in zip(np.arange(11) * np.pi / 5, [1, 0.42] * 5 + [1], strict=True)]
    c.badge(0.6, (40, 40, 45), star, 0.13)
    c.both(lambda s: c.area([(s * 0.72, 0.5), (s * 0.94, 0.56), (s * 0.94, 0.68), (s * 0.72, 0.66)], _LENS, _DARK))


def _fenwic(c: _Canvas) -> None:
    c.oval((0, 0.64), (0.42, 0.27), _DARK, _CHROME)
    for y in np.linspace(0.46, 0.82, 5):
        c.line([(-0.3, y), (0.3, y)], _SHADE, 3)
    for x in np.linspace(-0.28, 0.28, 8):
        c.line([(x, 0.46), (x, 0.82)], _SHADE, 3)
    c.badge(0.64, (40, 40, 190), [(-0.8, 0.8), (-0.8, -0.8), (0.8, -0.8)], 0.11)
    c.both(lambda s: c.area(
        [(s * 0.55, 0.86), (s * 0.97, 0.86), (s * 0.97, 0.52), (s * 0.86, 0.52), (s * 0.86, 0.75), (s * 0.55, 0.75)],
        _LENS, _DARK))  # fmt: skip


def _gorali(c: _Canvas) -> None:
    c.area([(-0.7, 0.8), (-0.66, 0.9), (0.66, 0.9), (0.7, 0.8)], _DARK, _SHADE)
    c.line([(-0.2, 0.5), (0.0, 0.74), (0.2, 0.5)], _CHROME, 12)
    c.line([(-0.2, 0.58), (0.0, 0.82), (0.2, 0.58)], _CHROME, 12)
    c.both(lambda s: c.area([(s * 0.78, 0.38), (s * 0.78, 0.84), (s * 0.92, 0.84), (s * 0.96, 0.38)], _LENS, _DARK))
    c.both(lambda s: c.line([(s * 0.79, 0.6), (s * 0.94, 0.6)], _GLOSS, 6))


def _hyvane(c: _Canvas) -> None:
    c.area([(-0.5, 0.88), (0.5, 0.88), (0.22, 0.4), (-0.22, 0.4)], _DARK, _SHADE)
    c.line([(-0.52, 0.9), (0.0, 0.46), (0.52, 0.9)], _CHROME, 16)
    c.badge(0.76, (60, 130, 30), [(-0.8, 0.8), (0, -0.8), (0.8, 0.8)], 0.1)
    c.both(lambda s: c.area([(s * 0.56, 0.78), (s * 0.97, 0.66), (s * 0.97, 0.58), (s * 0.62, 0.62)], _LENS, _DARK))
    c.both(lambda s: c.oval((s * 0.78, 0.42), (0.07, 0.07), _LENS, _DARK))


_FACES: Final = {
    "Aurex": _aurex,
    "Borvik": _borvik,
    "Celano": _celano,
    "Dromar": _dromar,
    "Estrel": _estrel,
    "Fenwic": _fenwic,
    "Gorali": _gorali,
    "Hyvane": _hyvane,
}
BRANDS: Final = tuple(_FACES)


@cache
def fascia(brand: str) -> NDArray[np.uint8]:
    """Draw a maker's front, shape (280, 640, 4), uint8 BGR and opacity; premultiplied."""
    canvas = _Canvas()
    canvas.area([(-0.98, 0.0), (-0.98, 0.1), (-0.9, 0.16), (0.9, 0.16), (0.98, 0.1), (0.98, 0.0)], (34, 34, 34))
    canvas.area([(-0.62, 0.08), (-0.55, 0.3), (0.55, 0.3), (0.62, 0.08)], _DARK)  # the lower intake, behind the plate
    _FACES[brand](canvas)
    image = canvas.image
    image[..., :3] = (image[..., :3] * (image[..., 3:] / 255)).astype(np.uint8)
    return image
