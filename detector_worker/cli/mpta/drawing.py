"""A small writer of SVG: texts, boxes and arrows on one page that suits light and dark surroundings.

Every text is escaped and freed of what XML cannot hold, so that names out of an archive stay names. No script, no
reference to anything outside.
"""

import re
from collections.abc import Iterator
from html import escape
from typing import Final

from detector_worker.cli.mpta.description import shown

__all__ = ["Page", "text_width", "wrap"]

_STYLE: Final = """
  .page { fill: #f6f7f9 } .card { fill: #ffffff; stroke: #cfd5dd } .inner { fill: #f6f7f9; stroke: #cfd5dd }
  text { font-family: system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1f2733 }
  .title { font-weight: 600 } .dim { fill: #667080 }
  .code { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace }
  .wire { stroke: #98a2b0; stroke-width: 1.5; fill: none } .tip { fill: #98a2b0 }
  .detector { fill: #2f6fde } .visit { fill: #c98a12 } .postgresql { fill: #2b7f8c } .redis { fill: #b3493f }
  .publish { fill: #7d56c2 } .branch { fill: #2d8a57 } .note { fill: #b3493f }
  @media (prefers-color-scheme: dark) {
    .page { fill: #14181f } .card { fill: #1d232c; stroke: #38414e } .inner { fill: #171c24; stroke: #38414e }
    text { fill: #e4e8ee } .dim { fill: #97a2b2 } .wire { stroke: #5d6876 } .tip { fill: #5d6876 }
    .detector { fill: #5b93f0 } .visit { fill: #e0a83c } .postgresql { fill: #4fb0be } .redis { fill: #dd7d73 }
    .publish { fill: #a587e0 } .branch { fill: #55b883 } .note { fill: #dd7d73 }
  }
"""
_WORD: Final = re.compile(r"[^\s:/,}]*[\s:/,}]+|[^\s:/,}]+")
_MAX_WORD: Final = 24
_WIDE: Final = "mwMW@%&"
_NARROW: Final = "ijltfrI.,:;'|![]() "


def text_width(text: str, size_px: float, *, is_code: bool = False) -> float:
    """Return about how wide a text is drawn, rather too wide: a renderer's fonts are not known."""
    if is_code:
        return len(text) * size_px * 0.61
    widths = (0.92 if char in _WIDE else 0.34 if char in _NARROW else 0.6 for char in text)
    return sum(1.0 if ord(char) > 0x2E7F else width for char, width in zip(text, widths, strict=True)) * size_px


def wrap(text: str, width_px: float, size_px: float, *, lines: int, is_code: bool = False) -> list[str]:
    """Break a text into lines of a width, behind blanks and separators; what is over so many lines is cut with …."""
    done, line = list[str](), ""
    for part in _parts(shown(text, 400)):
        if line and text_width((line + part).rstrip(), size_px, is_code=is_code) > width_px:
            done.append(line.rstrip())
            line = ""
        line += part
    done.append(line.rstrip())
    if len(done) > lines:
        done = [*done[: lines - 1], done[lines - 1][: max(1, len(done[lines - 1]) - 2)] + "…"]
    return done


def _parts(text: str) -> Iterator[str]:
    """Yield what stays on one line; nothing is long."""
    for word in _WORD.findall(text):
        for start in range(0, len(word), _MAX_WORD):
            yield word[start : start + _MAX_WORD]


class Page:
    """Elements in the order in which they are drawn."""

    def __init__(self, width_px: float) -> None:
        self.width_px = width_px
        self._elements: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, kind: str, *, radius: float = 8) -> None:
        """Draw a rectangle with round corners; ``kind`` is its class."""
        place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}"'
        self._elements.append(f'<rect {place} class="{kind}"/>')

    def text(
        self, x: float, y: float, text: str, kind: str = "", *, size_px: float = 13, anchor: str = "start"
    ) -> None:
        """Write one line; ``y`` is its base line."""
        place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size_px}" text-anchor="{anchor}"'
        self._elements.append(f'<text {place} class="{kind}">{escape(shown(text, 400))}</text>')

    def line(self, *points: tuple[float, float]) -> None:
        """Draw a line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._elements.append(f'<polyline points="{path}" class="wire"/>')

    def arrow(self, *points: tuple[float, float]) -> None:
        """Draw a line through points, with a tip at the last, which is reached straight down or from the left."""
        self.line(*points)
        (before_x, _), (x, y) = points[-2], points[-1]
        ends = ((-4, -7), (4, -7)) if before_x == x else ((-7, -4), (-7, 4))
        tip = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in ((0, 0), *ends))
        self._elements.append(f'<polygon points="{tip}" class="tip"/>')

    def svg(self, height_px: float, title: str) -> str:
        """Return the whole file."""
        width, height = f"{self.width_px:.0f}", f"{height_px:.0f}"
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        )
        name = escape(shown(title))
        parts = [f'{head} role="img">', f"<title>{name}</title>", f"<style>{_STYLE}</style>"]
        parts.append(f'<rect width="{width}" height="{height}" class="page"/>')
        return "\n".join([*parts, *self._elements, "</svg>"]) + "\n"
