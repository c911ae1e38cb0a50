"""Draws ``docs/scenes.jpg``: scenes by day, at night, in rain, crowded, occluded, with small and large plates.

It looks for the pictures among the stills, so that nothing is posed.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.simulator.scenes.light import LIGHTS
from detector_worker.simulator.scenes.stills import STILLS_PER_PLACE, SeenObject, still

ROOT: Final = Path(__file__).parents[1]
CELL_WH: Final = (640, 360)
Picture = NDArray[np.uint8]
Contents = list[SeenObject]


def main() -> int:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "scenes.jpg")
    arguments = parser.parse_args()
    found: dict[str, Picture] = {}
    for light, image, seen in _stills():
        for title, fits in _WANTED.items():
            if title not in found and (shown := fits(light, image, seen)) is not None:
                found[title] = _captioned(shown, title)
                break
        if len(found) == len(_WANTED):
            break
    missing = _WANTED.keys() - found.keys()
    if missing:
        parser.error(f"no still shows: {', '.join(sorted(missing))}")
    cells = [found[title] for title in _WANTED]
    rows = [np.hstack(cells[number : number + 2]) for number in range(0, len(cells), 2)]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(arguments.output), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 82])
    print(arguments.output)  # noqa: T201 - the script's answer
    return 0


def _stills() -> Iterator[tuple[str, Picture, Contents]]:
    for place in range(700_000, 700_060):
        for number in range(8):
            image, seen = still(place * STILLS_PER_PLACE + number)
            yield LIGHTS[place % len(LIGHTS)], image, seen


def _of(seen: Contents, kind: str, least_visible: float = 0.0) -> Contents:
    return [one for one in seen if one.kind == kind and one.visible >= least_visible]


def _whole(wanted: str, least: int) -> Callable[[str, Picture, Contents], Picture | None]:
    def fits(light: str, image: Picture, seen: Contents) -> Picture | None:
        return image if light == wanted and len(_of(seen, "vehicle", 0.9)) >= least else None

    return fits


def _crowd(light: str, image: Picture, seen: Contents) -> Picture | None:
    crowded = len(_of(seen, "vehicle", 0.3)) >= 6 and _of(seen, "person", 0.5)
    return image if light == "day" and crowded else None


def _occlusion(light: str, image: Picture, seen: Contents) -> Picture | None:
    hidden = [one for one in _of(seen, "vehicle", 0.2) if one.covered > 0.4 and one.xyxy[2] - one.xyxy[0] > 140]
    return image if light != "night" and hidden else None


def _plate(low: float, high: float) -> Callable[[str, Picture, Contents], Picture | None]:
    def fits(light: str, image: Picture, seen: Contents) -> Picture | None:
        for one in _of(seen, "plate", 0.97):
            x1, y1, x2, y2 = one.xyxy
            if low <= y2 - y1 <= high and light == "day":
                x, y = int((x1 + x2) / 2), int((y1 + y2) / 2)
                left, top = min(max(0, x - 160), 960), min(max(0, y - 90), 540)
                return image[top : top + 180, left : left + 320]
        return None

    return fits


def _captioned(image: Picture, title: str) -> Picture:
    cell: Any = cv2.resize(
        image, CELL_WH, interpolation=cv2.INTER_AREA if image.shape[1] > CELL_WH[0] else cv2.INTER_CUBIC
    )
    cv2.rectangle(cell, (0, 0), (14 + 11 * len(title), 26), (0, 0, 0), cv2.FILLED)
    cv2.putText(cell, title, (8, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
    return np.asarray(cell, np.uint8)


_WANTED: Final[dict[str, Callable[[str, Picture, Contents], Picture | None]]] = {
    "day": _whole("day", 3),
    "dusk": _whole("dusk", 2),
    "night": _whole("night", 2),
    "rain": _whole("rain", 2),
    "crowd": _crowd,
    "occlusion": _occlusion,
    "plate 14 px high, enlarged": _plate(13.5, 14.5),
    "plate 40 px high, enlarged": _plate(38.5, 42),
}


if __name__ == "__main__":
    raise SystemExit(main())
