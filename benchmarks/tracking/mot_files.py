"""Sequences in the MOTChallenge text format: a folder each, with ``det.txt``, ``gt.txt`` and ``seqinfo.ini``.

Source:
    https://motchallenge.net/instructions; Leal-Taixe et al., "MOTChallenge 2015: Towards a Benchmark for Multi-Target
    Tracking" (arXiv:1504.01942).
"""

import configparser
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox
from detector_worker.core.exceptions import ConfigurationError

__all__ = ["FoundBoxes", "MotSequence", "NumberedBoxes", "read_sequences"]

_FILES: Final = ("seqinfo.ini", "det.txt", "gt.txt")
_COLUMNS: Final = 7
_MOST_FRAMES: Final = 1_000_000
_FORMAT: Final = "Each line is frame,id,x,y,width,height,confidence or flag, and what follows is passed over."


class NumberedBoxes(NamedTuple):
    """Who is where in one frame: the truth, or what a tracker says."""

    track_id: NDArray[np.int64]  # shape (N,)
    xyxy: NDArray[np.float32]  # shape (N, 4), pixels


class FoundBoxes(NamedTuple):
    """What a detector found in one frame."""

    confidence: NDArray[np.float32]  # shape (N,); of any scale
    xyxy: NDArray[np.float32]  # shape (N, 4), pixels


@dataclass(frozen=True, slots=True)
class MotSequence:
    """One sequence; of what is found and what is true there is one entry a frame."""

    name: str
    frame_rate: float
    picture: BoundingBox
    found: tuple[FoundBoxes, ...]
    truth: tuple[NumberedBoxes, ...]


def read_sequences(folder: Path) -> list[MotSequence]:
    """Read all sequences of a folder, in the order of their names.

    Raises:
        ConfigurationError: There are none, or a file is missing or is not what it should be.
    """
    if not folder.is_dir():
        raise ConfigurationError("No such folder", where=str(folder), mend="Name the folder that holds the sequences.")
    sequences = sorted(path for path in folder.iterdir() if any((path / name).exists() for name in _FILES))
    if not sequences:
        raise ConfigurationError(
            "No sequence in this folder",
            where=str(folder),
            mend=f"A sequence is a folder within it, with {', '.join(_FILES)}.",
        )
    return [_read_sequence(path) for path in sequences]


def _read_sequence(folder: Path) -> MotSequence:
    frame_rate, frames, picture = _read_info(folder / "seqinfo.ini")
    found, truth = _read_boxes(folder / "det.txt", frames), _read_boxes(folder / "gt.txt", frames)
    truth = truth[truth[:, 6] != 0]  # as TrackEval does for MOT15: who is marked with 0 is not asked for
    _refuse_doubles(truth, folder / "gt.txt")
    return MotSequence(
        name=folder.name,
        frame_rate=frame_rate,
        picture=picture,
        found=tuple(FoundBoxes(rows[:, 6].astype(np.float32), _xyxy(rows)) for rows in _by_frame(found, frames)),
        truth=tuple(NumberedBoxes(rows[:, 1].astype(np.int64), _xyxy(rows)) for rows in _by_frame(truth, frames)),
    )


def _read_info(path: Path) -> tuple[float, int, BoundingBox]:
    """Return frames a second, their number, and the picture."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(_read_text(path))
        info = parser["Sequence"]
        rate, frames = float(info["frameRate"]), int(info["seqLength"])
        width, height = int(info["imWidth"]), int(info["imHeight"])
    except (configparser.Error, KeyError, ValueError) as exc:
        raise ConfigurationError(
            f"Not the description of a sequence: {type(exc).__name__}: {exc}",
            where=str(path),
            mend="It needs a section [Sequence] with the numbers frameRate, seqLength, imWidth and imHeight.",
        ) from exc
    if not (0 < rate < math.inf and 0 < frames <= _MOST_FRAMES and width > 0 and height > 0):
        raise ConfigurationError(
            "A number is out of range",
            where=str(path),
            mend=f"frameRate, seqLength (at most {_MOST_FRAMES}), imWidth and imHeight must be greater than zero.",
        )
    return rate, frames, BoundingBox(0, 0, width, height)


def _read_boxes(path: Path, frames: int) -> NDArray[np.float64]:
    """Return frame, id, x, y, width, height and confidence or flag of each line: shape (L, 7)."""
    rows = []
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        if line.strip():
            try:
                rows.append(_read_line(line, frames))
            except ValueError as exc:
                raise ConfigurationError(f"Bad line: {exc}", where=f"{path}, line {number}", mend=_FORMAT) from exc
    return np.array(rows, np.float64).reshape(-1, _COLUMNS)


def _read_line(line: str, frames: int) -> list[float]:
    row = [float(value) for value in line.split(",")[:_COLUMNS]]
    if len(row) < _COLUMNS:
        raise ValueError(f"{len(row)} columns, {_COLUMNS} are needed")
    if not all(map(math.isfinite, row)):
        raise ValueError("a value is not finite")
    if row[0] not in range(1, frames + 1):
        raise ValueError(f"frame {row[0]:g} is not one of 1 to {frames}")
    if not row[1].is_integer():
        raise ValueError(f"the id {row[1]:g} is no whole number")
    if min(row[4:6]) <= 0:
        raise ValueError("the box has no area")
    return row


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
        raise ConfigurationError(
            f"Cannot be read: {reason}", where=str(path), mend=f"A sequence needs {', '.join(_FILES)}."
        ) from exc


def _refuse_doubles(truth: NDArray[np.float64], path: Path) -> None:
    who, counts = np.unique(truth[:, :2], axis=0, return_counts=True)
    if (counts > 1).any():
        frame, track_id = who[counts > 1][0]
        raise ConfigurationError(
            f"Id {track_id:g} is twice in frame {frame:g}", where=str(path), mend="An object has one box in a frame."
        )


def _by_frame(rows: NDArray[np.float64], frames: int) -> list[NDArray[np.float64]]:
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return np.split(rows, np.searchsorted(rows[:, 0], np.arange(2, frames + 1)))


def _xyxy(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    xy = rows[:, 2:4]
    return np.concatenate((xy, xy + rows[:, 4:6]), axis=1).astype(np.float32)
