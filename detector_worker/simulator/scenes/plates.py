"""Number plates of a country that does not exist: two letters, three digits, two letters."""

import random
from functools import cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["ALPHABET", "PLATE_LENGTH", "PLATE_M", "plate_image", "random_plate"]

ALPHABET: Final = "ABCDEFGHKLMNPRSTUVWXYZ0123456789"
"""Without I, J, O and Q, which nobody could tell from 1 and 0."""
PLATE_LENGTH: Final = 7
PLATE_M: Final = (0.70, 0.18)
"""Width and height, metres."""
_LETTERS: Final = ALPHABET[:22]
_GLYPH_WH: Final = (48, 80)
_GLYPHS: Final = Path(__file__).with_name("plate_glyphs.png")
"""All symbols in their order, from the open font DejaVu Sans Condensed Bold (Bitstream Vera licence)."""
_GROUNDS: Final = ((238, 240, 240), (238, 240, 240), (90, 205, 240))


def random_plate(rng: random.Random) -> str:
    """Make a plate's text."""
    pattern = (_LETTERS, _LETTERS, ALPHABET[22:], ALPHABET[22:], ALPHABET[22:], _LETTERS, _LETTERS)
    return "".join(rng.choice(symbols) for symbols in pattern)


def plate_image(text: str) -> NDArray[np.uint8]:
    """Draw a plate, shape (100, 400, 3), uint8 BGR; its ground depends on the text."""
    image = np.full((100, 400, 3), _GROUNDS[sum(map(ord, text)) % len(_GROUNDS)], np.uint8)
    cv2.rectangle(image, (2, 2), (397, 97), (40, 40, 40), 3, cv2.LINE_AA)
    image[5:96, 5:26] = (150, 60, 20)
    for number, symbol in enumerate(text):
        left = 32 + number * 49 + 7 * (number >= 2) + 7 * (number >= 5)
        glyph = _glyphs()[:, ALPHABET.index(symbol) * _GLYPH_WH[0] :][:, : _GLYPH_WH[0]]
        place = image[10 : 10 + _GLYPH_WH[1], left : left + _GLYPH_WH[0]]
        place[:] = (place * (1 - glyph[..., None] / 255 * 0.9)).astype(np.uint8)
    return image


@cache
def _glyphs() -> NDArray[np.uint8]:
    data = np.frombuffer(_GLYPHS.read_bytes(), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
