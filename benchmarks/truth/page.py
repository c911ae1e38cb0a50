"""A page for people: what went wrong, each with a picture of the moment."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.cli.demo.comparison import Comparison, Finding
from detector_worker.core.exceptions import ConfigurationError
from detector_worker.simulator.scenes.truth import Box, SceneTruth

__all__ = ["write_page"]

_WIDTH: Final = 720
_GREEN: Final = (80, 200, 60)
_RED: Final = (40, 40, 230)
_TRUTH_SAYS: Final = "green: where a vehicle really was; red: where the record says"


def write_page(page: Path, scenes: Mapping[str, tuple[Comparison, dict[str, Path]]], *, seed: int) -> None:
    """Write each scene's findings into a Markdown page, their pictures into the folder ``<page's name>/`` beside it.

    Raises:
        ConfigurationError: It cannot be written.
    """
    folder = page.with_suffix("")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        lines = _count(scenes, seed)
        for name, (comparison, films) in scenes.items():
            for number, finding in enumerate(comparison.findings, start=1):
                picture = folder / f"{name.replace(' ', '-')}-{number}.jpg"
                lines += ["", f"### {name}: {finding.kind}", "", finding.text + ".", ""]
                if (image := _picture_of(finding, films)) is not None:
                    folder.mkdir(parents=True, exist_ok=True)
                    picture.write_bytes(image)
                    lines.append(f"![{_TRUTH_SAYS}]({folder.name}/{picture.name})")
        page.write_text("\n".join(lines) + "\n")
    except OSError as exc:
        mend = "Name a file in a folder that can be written."
        raise ConfigurationError(f"The page cannot be written: {exc.strerror}", where=str(page), mend=mend) from exc


def _count(scenes: Mapping[str, tuple[Comparison, Any]], seed: int) -> list[str]:
    columns = ("vehicles", "records", "missed", "duplicates", "wrong_plate_to_car")
    shares = (("brand_correct", "vehicles"), ("body_correct", "vehicles"), ("plate_correct", "plate_readable"))
    lines = [
        "# One record per real vehicle",
        "",
        f"Written by `detector-worker bench truth --seed {seed} --page docs/truth.md`: simulated scenes, in which",
        "everything that happens is known. Duplicates are records beyond a vehicle's first, and records of no vehicle.",
        "",
        "| scene | vehicles | records | missed | duplicates | plate of another | brand | body | readable plates |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (one, _) in scenes.items():
        counts = [str(getattr(one, column)) for column in columns]
        right = [f"{getattr(one, part)} of {getattr(one, of)}" for part, of in shares]
        lines.append(f"| {name} | {' | '.join((*counts, *right))} |")
    if not any(one.findings for one, _ in scenes.values()):
        return [*lines, "", "No error, and no wrong reading."]
    return [*lines, "", "## What is wrong", "", f"In the pictures, {_TRUTH_SAYS}."]


def _picture_of(finding: Finding, films: Mapping[str, Path]) -> bytes | None:
    path = films.get(finding.camera_id)
    image = None if path is None else _frame_at(path, finding.film_s)
    if path is None or image is None:
        return None
    truth = SceneTruth.load(path.with_suffix(".json"))
    for vehicle in truth.vehicles:
        if (box := vehicle.box_at(finding.film_s)) is not None:
            width = 3 if vehicle.vehicle_id == finding.vehicle_id else 1
            _draw(image, box, _GREEN, vehicle.vehicle_id, width)
    if finding.xyxy is not None:
        _draw(image, finding.xyxy, _RED, "record", 2)
    small = cv2.resize(image, (_WIDTH, round(image.shape[0] * _WIDTH / image.shape[1])), interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, 70))
    return encoded.tobytes()


def _frame_at(path: Path, film_s: float) -> NDArray[np.uint8] | None:
    with av.open(str(path)) as film:
        film.seek(int(max(0.0, film_s) * 1_000_000))
        for picture in film.decode(video=0):
            if picture.time is not None and picture.time >= film_s - 1e-3:
                return np.asarray(picture.to_ndarray(format="bgr24"), np.uint8)
    return None


def _draw(image: NDArray[np.uint8], box: Box, colour: tuple[int, int, int], text: str, width: int) -> None:
    x1, y1, x2, y2 = (round(side) for side in box)
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, width)
    cv2.putText(image, text, (x1 + 4, max(24, y1 - 6)), cv2.FONT_HERSHEY_SIMPLEX, 0.8, colour, 2, cv2.LINE_AA)
