"""What really happened in a scene: every vehicle, where it was at every moment, and what made it difficult."""

from bisect import bisect_right
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson

__all__ = ["READABLE_PLATE_PX", "Box", "SceneTruth", "VehicleTruth"]

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the picture; clipped to it."""
READABLE_PLATE_PX: Final = 20.0
"""From this height on an unoccluded plate can be read."""


@dataclass(frozen=True, slots=True)
class VehicleTruth:
    """One vehicle's stay. Times are seconds of the film."""

    vehicle_id: str
    """Such as ``cam-1/3``: the third of its camera."""
    brand: str
    body: str
    colour: str
    plate: str
    enters_s: float
    stops_s: float
    starts_s: float
    """When it drives on."""
    leaves_s: float
    plate_px: float
    """Height of its plate where it stands, pixels."""
    plate_readable: bool
    """High enough, and unoccluded for at least a second where it stands."""
    in_pair: bool
    """Another one arrives within a second of it."""
    occluded: bool
    """More than 40 % of it are hidden for at least a second while it is in sight."""
    lookalike: bool
    """The one before it had the same brand, body and colour."""
    at_night: bool
    """When it stops; so is the rain."""
    in_rain: bool
    parked: bool
    """It stays for longer than ten minutes, or for as long as the longest stop that was ordered."""
    gap_s: float
    """Since another vehicle arrived or left; what comes first has the time since the film's start."""
    boxes: tuple[tuple[float, float, float, float, float, float], ...]
    """Rows of film second, box, and visible share (0 to 1), wherever it moved; valid until the next row."""
    hidden_s: float = 0.0
    """How long something nearer hides more than 40 % of it while it stands."""

    def box_at(self, film_s: float) -> Box | None:
        """Where it is in the picture; None while it is out of sight."""
        if not self.enters_s <= film_s <= self.leaves_s:
            return None
        row = self.boxes[max(0, bisect_right(self.boxes, (film_s,) + (float("inf"),) * 5) - 1)]
        return row[1:5]


@dataclass(frozen=True, slots=True)
class SceneTruth:
    """One camera's film."""

    camera_id: str
    seed: int
    light: str
    """``day``, ``dusk``, ``night``, ``rain``, or ``changing``."""
    fps: float
    duration_s: float
    wh: tuple[int, int]
    ignore_masks: tuple[Box, ...]
    """What a subscriber should ignore: the queue before the gate, where plates cannot be read yet."""
    vehicles: tuple[VehicleTruth, ...]
    scene: str = "mix"
    """Its kind."""

    def to_json(self) -> bytes:
        """Write it; `from_json` reads it."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote."""
        content: dict[str, Any] = orjson.loads(data)
        vehicles = tuple(
            VehicleTruth(**one | {"boxes": tuple(tuple(row) for row in one["boxes"])}) for one in content["vehicles"]
        )
        masks = tuple(tuple(mask) for mask in content["ignore_masks"])
        return cls(**content | {"vehicles": vehicles, "wh": tuple(content["wh"]), "ignore_masks": masks})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file."""
        return cls.from_json(path.read_bytes())
