"""Keeps the truth while a film is rendered, and says what a subscriber should not look at."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from detector_worker.simulator.scenes.bodies import BODIES, shape_of
from detector_worker.simulator.scenes.geometry import PICTURE_WH, SceneCamera
from detector_worker.simulator.scenes.light_plan import LightPlan
from detector_worker.simulator.scenes.script import Arrival, Script
from detector_worker.simulator.scenes.stage import SeenObject
from detector_worker.simulator.scenes.truth import READABLE_PLATE_PX, Box, VehicleTruth
from detector_worker.simulator.scenes.vehicle_art import vehicle_box

__all__ = ["Recorder", "ignore_masks"]

_HIDDEN: Final = 0.4
_PLATE_FREE: Final = 0.97
_LONG_STAY_S: Final = 600.0
_MOVED_PX: Final = 0.75
_SHORTEST_M: Final = min(shape_of(body).length for body in BODIES)
_CLOSER_M: Final = 0.1
"""By so much who queues may be closer than it should, for the masks."""


@dataclass(slots=True)
class _Notes:
    boxes: list[tuple[float, float, float, float, float, float]] = field(default_factory=list)
    first_s: float | None = None
    last_s: float = 0.0
    hidden_s: float = 0.0
    stands_hidden_s: float = 0.0
    plate_free_s: float = 0.0
    plate_px: float = 0.0


class Recorder:
    """Takes every picture's contents in their order."""

    def __init__(self, camera_id: str, script: Script, lights: LightPlan) -> None:
        self._camera_id, self._script, self._lights = camera_id, script, lights
        self._notes = [_Notes() for _ in script.arrivals]
        self._last_s = 0.0

    def note(self, film_s: float, present: Sequence[int], seen: Sequence[SeenObject]) -> None:
        """Note what a picture shows; ``present`` are the script's arrivals by the number of their vehicle in it."""
        step_s, self._last_s = film_s - self._last_s, film_s
        for one in seen:
            if one.vehicle < 0:
                continue
            notes, arrival = self._notes[present[one.vehicle]], self._script.arrivals[present[one.vehicle]]
            stands = arrival.stops_s <= film_s <= arrival.starts_s
            if one.kind == "vehicle":
                notes.first_s = film_s if notes.first_s is None else notes.first_s
                notes.last_s = film_s
                notes.hidden_s += step_s if one.covered > _HIDDEN else 0.0
                notes.stands_hidden_s += step_s if stands and one.covered > _HIDDEN else 0.0
                x1, y1, x2, y2 = (round(side, 1) for side in one.xyxy)
                row = film_s, x1, y1, x2, y2, round(one.visible, 2)
                if not notes.boxes or _differ(notes.boxes[-1], row):
                    notes.boxes.append(row)
            elif one.kind == "plate" and stands:
                notes.plate_px = max(notes.plate_px, one.xyxy[3] - one.xyxy[1])
                notes.plate_free_s += step_s if one.visible >= _PLATE_FREE else 0.0

    def vehicles(self, *, longest_stop_s: float) -> tuple[VehicleTruth, ...]:
        """Return the truth, in the order of arrival."""
        pairs = enumerate(zip(self._script.arrivals, self._notes, strict=True), 1)
        return tuple(self._vehicle(number, one, notes, longest_stop_s) for number, (one, notes) in pairs)

    def _vehicle(self, number: int, one: Arrival, notes: _Notes, longest_stop_s: float) -> VehicleTruth:
        moments = [m for other in self._script.arrivals if other is not one for m in (other.stops_s, other.starts_s)]
        light = self._lights.name_at(one.stops_s)
        return VehicleTruth(
            vehicle_id=f"{self._camera_id}/{number}",
            brand=one.look.brand,
            body=one.look.body,
            colour=one.look.colour,
            plate=one.look.plate,
            enters_s=round(notes.first_s or 0.0, 3),
            stops_s=round(one.stops_s, 3),
            starts_s=round(one.starts_s, 3),
            leaves_s=round(notes.last_s, 3),
            plate_px=round(notes.plate_px, 1),
            plate_readable=notes.plate_px >= READABLE_PLATE_PX and notes.plate_free_s >= 1.0,
            in_pair=one.in_pair,
            occluded=notes.hidden_s >= 1.0,
            lookalike=one.lookalike,
            at_night=light == "night",
            in_rain=light == "rain",
            parked=one.stands_s >= min(_LONG_STAY_S, longest_stop_s),
            gap_s=round(min((one.stops_s - m for m in moments if m <= one.stops_s), default=one.stops_s), 3),
            boxes=tuple(notes.boxes),
            hidden_s=round(notes.stands_hidden_s, 3),
        )


def ignore_masks(camera: SceneCamera, *, queue_gap_m: float) -> tuple[Box, ...]:
    """Return where boxes have their middles that belong to the queue, not to a vehicle at the gate or in the bay."""
    lanes = (-camera.lane_m, camera.lane_m)
    queue_m = camera.stop_m + _SHORTEST_M + queue_gap_m - _CLOSER_M
    waiting = max(_middle(camera, body, x, queue_m)[1] for body in BODIES for x in lanes)
    standing = min(_middle(camera, body, x, camera.stop_m + 0.35)[1] for body in BODIES for x in lanes)
    left = 0.0
    if camera.has_bay:
        parked = max(_middle(camera, body, camera.bay_x, camera.bay_m + 0.35)[0] for body in BODIES)
        left = round(parked + max(shape_of(body).width for body in BODIES) / 4 * camera.focal_px / camera.bay_m)
    return ((float(left), 0.0, float(PICTURE_WH[0]), float(round((waiting + standing) / 2))),)


def _middle(camera: SceneCamera, body: str, x: float, z: float) -> tuple[float, float]:
    x1, y1, x2, y2 = vehicle_box(camera, body, x, z)
    left, right = max(0.0, x1), min(float(PICTURE_WH[0]), x2)
    top, bottom = max(0.0, y1), min(float(PICTURE_WH[1]), y2)
    return (left + right) / 2, (top + bottom) / 2


def _differ(old: tuple[float, ...], new: tuple[float, ...]) -> bool:
    return any(abs(a - b) > _MOVED_PX for a, b in zip(old[1:5], new[1:5], strict=True)) or abs(old[5] - new[5]) > 0.05
