"""One moment of a scene as its camera sees it, and what is where in that picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.simulator.scenes.backdrop import LAMP_UNIT, paint_backdrop
from detector_worker.simulator.scenes.geometry import PICTURE_WH, SceneCamera
from detector_worker.simulator.scenes.light import Light
from detector_worker.simulator.scenes.mast import MAST_REACH_PX, Mast
from detector_worker.simulator.scenes.people import PersonArtist, Walker
from detector_worker.simulator.scenes.sensor import Sensor
from detector_worker.simulator.scenes.sprite import Sprite, paste
from detector_worker.simulator.scenes.truth import Box
from detector_worker.simulator.scenes.vehicle_art import Look, VehicleArtist, vehicle_box

__all__ = ["Person", "SeenObject", "Stage", "Vehicle"]

_OWNERS_EVERY_PX: Final = 4
_SOLID: Final = 160
"""From this opacity on a pixel belongs to the object and not to its shadow."""
_MARGIN_PX: Final = 8
"""As far as the wind of `Sensor.shake` can move a camera, and more."""


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A vehicle at one moment: its middle at x, its front at z."""

    look: Look
    x: float
    z: float
    is_lit: bool = True
    """Its headlights are on, in a light in which others' are."""


@dataclass(frozen=True, slots=True)
class Person:
    """A walker at one moment."""

    walker: Walker
    x: float
    z: float
    steps: float
    to_left: bool


@dataclass(frozen=True, slots=True)
class SeenObject:
    """What can be seen of one thing."""

    kind: Literal["vehicle", "frontal", "plate", "person"]
    xyxy: Box
    visible: float
    """Share of it that neither something nearer nor the picture's edge hides, 0 to 1."""
    covered: float
    """Share that something nearer hides, of what is within the picture."""
    vehicle: int
    """Which of the vehicles it belongs to; -1 for a person."""
    brand: str = ""
    body: str = ""
    plate: str = ""


@dataclass(frozen=True, slots=True)
class _Composed:
    """Things laid onto the empty place, before the camera adds its own."""

    things: tuple[Vehicle | Person, ...]
    canvas: NDArray[np.uint8]
    owners: NDArray[np.int16]
    """Which of the things each place belongs to, -1 for none."""
    areas: dict[int, int]
    """How many places each would cover by itself."""


class Stage:
    """Puts vehicles and people in front of one camera in one light. Not thread-safe.

    Args:
        camera: Where it hangs.
        light: What it all is seen in.
        seed: Decides what stands there, and the noise.
        mast: What moves the camera; None: a little wind, or none.
        light_changes: There are stages in other lights, too, of the same place.
    """

    def __init__(
        self, camera: SceneCamera, light: Light, *, seed: int, mast: Mast | None = None, light_changes: bool = False
    ) -> None:
        self._camera, self._light, self._mast = camera, light, mast
        margin_px = _MARGIN_PX if mast is None else MAST_REACH_PX
        self._backdrop = paint_backdrop(camera, light, seed, margin_px=margin_px, light_changes=light_changes)
        self._margin_px = margin_px
        self._vehicles, self._people = VehicleArtist(camera, light), PersonArtist(camera, light)
        self._sensor = Sensor(light, seed=seed)
        self._glow = _glow_template()
        self._boxes_of = lru_cache(maxsize=64)(self._measure)  # for those that stand
        self._composed: _Composed | None = None

    def picture(
        self,
        vehicles: Sequence[Vehicle],
        people: Sequence[Person],
        number: int,
        *,
        film_s: float = 0.0,
        turning: tuple["Stage", float] | None = None,
    ) -> tuple[NDArray[np.uint8], list[SeenObject]]:
        """Render a picture of a film.

        Args:
            vehicles: In any order.
            people: In any order.
            number: Of the picture: decides the noise, and the wind where there is no mast.
            film_s: Its moment, which decides where the mast is.
            turning: The same place in the light that this one turns into, and how far it has, 0 to 1.

        Returns:
            I420 of shape (1080, 1280), uint8, and what is in it.
        """
        things: tuple[Vehicle | Person, ...] = (*vehicles, *people)
        composed = self._compose(things)
        canvas, sensor = composed.canvas, self._sensor
        if turning is not None:
            other, share = turning
            later = other._compose(things).canvas
            canvas = np.asarray(cv2.addWeighted(canvas, 1 - share, later, share, 0), np.uint8)
            sensor = sensor if share < 0.5 else other._sensor
        dx, dy = self._sensor.shake(number) if self._mast is None else self._mast.offset(film_s)
        seen = self._seen(composed, (dx, dy))
        left, top = self._margin_px + dx, self._margin_px + dy
        view = canvas[top : top + PICTURE_WH[1], left : left + PICTURE_WH[0]]
        return sensor.expose(view, number), seen

    def _compose(self, things: tuple[Vehicle | Person, ...]) -> _Composed:
        """Lay things onto the empty place; while nothing moves it stays as it is."""
        if self._composed is not None and self._composed.things == things:
            return self._composed
        canvas = self._backdrop.image.copy()
        owners = np.full((canvas.shape[0] // _OWNERS_EVERY_PX, canvas.shape[1] // _OWNERS_EVERY_PX), -1, np.int16)
        areas: dict[int, int] = {}
        for index in sorted(range(len(things)), key=lambda one: -things[one].z):
            sprite = self._sprite_of(things[index])
            if sprite is not None:
                areas[index] = self._put(canvas, owners, sprite, index)
            if isinstance(thing := things[index], Vehicle) and thing.is_lit and self._light.headlights:
                self._shine(canvas, thing)
        self._composed = _Composed(things, canvas, owners, areas)
        return self._composed

    def _sprite_of(self, thing: Vehicle | Person) -> Sprite | None:
        if isinstance(thing, Vehicle):
            return self._vehicles.sprite(thing.look, thing.x, thing.z)
        return self._people.sprite(thing.walker, thing.x, thing.z, thing.steps, to_left=thing.to_left)

    def _put(self, canvas: NDArray[np.uint8], owners: NDArray[np.int16], sprite: Sprite, index: int) -> int:
        """Lay a thing onto the canvas and note what it covers; returns how many places that are."""
        areas = sprite.areas(canvas.shape[:2], self._margin_px)
        if areas is None:
            return 0
        (rows, columns), own = areas
        image = sprite.image[own]
        if self._backdrop.lamp is not None:
            image = np.asarray(cv2.multiply(image, self._backdrop.lamp[rows, columns], scale=LAMP_UNIT), np.uint8)
        paste(canvas[rows, columns], image)
        step = _OWNERS_EVERY_PX
        part = owners[(rows.start + step - 1) // step : (rows.stop + step - 1) // step,
                      (columns.start + step - 1) // step : (columns.stop + step - 1) // step]  # fmt: skip
        solid = image[-rows.start % step :: step, -columns.start % step :: step, 3] >= _SOLID
        solid = solid[: part.shape[0], : part.shape[1]]
        part[: solid.shape[0], : solid.shape[1]][solid] = index
        return int(np.count_nonzero(solid))

    def _shine(self, canvas: NDArray[np.uint8], vehicle: Vehicle) -> None:
        """Let the headlights glare."""
        strength = {"night": 0.9, "dusk": 0.5, "rain": 0.35, "day": 0.2}[self._light.name]
        for column, row, depth in self._vehicles.lamps(vehicle.look.body, vehicle.x, vehicle.z):
            radius = int(self._camera.focal_px * (0.35 if self._light.name == "night" else 0.22) / depth)
            if not 4 <= radius <= 160 or vehicle.z < 1:
                continue
            glow = cv2.resize(self._glow, (2 * radius, 2 * radius), interpolation=cv2.INTER_LINEAR)
            glow = cv2.convertScaleAbs(glow, alpha=strength)
            areas = Sprite(np.asarray(glow), round(column) - radius, round(row) - radius).areas(
                canvas.shape[:2], self._margin_px
            )
            if areas is not None:
                part = canvas[areas[0]]
                part[:] = cv2.add(part, np.ascontiguousarray(glow[areas[1]]))

    def _seen(self, composed: _Composed, shake: tuple[int, int]) -> list[SeenObject]:
        owners, areas = composed.owners, composed.areas
        seen: list[SeenObject] = []
        for index, thing in enumerate(composed.things):
            if not areas.get(index):
                continue
            share = np.count_nonzero(owners == index) / areas[index]
            if isinstance(thing, Person):
                box = self._people.box(thing.walker, thing.x, thing.z)
                seen += _in_picture("person", box, share, shake, vehicle=-1)
                continue
            whole, front, plate = self._boxes_of(thing)
            names = {"brand": thing.look.brand, "body": thing.look.body, "plate": thing.look.plate}
            seen += _in_picture("vehicle", whole, share, shake, vehicle=index, **names)
            seen += _in_picture("frontal", front, self._own_share(owners, front, index), shake, vehicle=index, **names)
            seen += _in_picture("plate", plate, self._own_share(owners, plate, index), shake, vehicle=index, **names)
        return seen

    def _own_share(self, owners: NDArray[np.int16], box: Box, index: int) -> float:
        x1, y1, x2, y2 = ((side + self._margin_px) / _OWNERS_EVERY_PX for side in box)
        rows = slice(max(0, int(y1 + 0.5)), max(0, int(np.ceil(y2))))
        part = owners[rows, max(0, int(x1 + 0.5)) : max(0, int(np.ceil(x2)))]
        return float((part == index).mean()) if part.size else 0.0

    def _measure(self, thing: Vehicle) -> tuple[Box, Box, Box]:
        """Return the boxes of a vehicle, its front and its plate."""
        artist, place = self._vehicles, (thing.look.body, thing.x, thing.z)
        return vehicle_box(self._camera, *place), artist.frontal_box(*place), artist.plate_box(*place)


def _in_picture(
    kind: Literal["vehicle", "frontal", "plate", "person"],
    box: Box,
    share: float,
    shake: tuple[int, int],
    *,
    vehicle: int,
    brand: str = "",
    body: str = "",
    plate: str = "",
) -> list[SeenObject]:
    """Return the object as the picture's edges cut it; nothing where it is outside."""
    x1, y1, x2, y2 = box[0] - shake[0], box[1] - shake[1], box[2] - shake[0], box[3] - shake[1]
    inside = max(0.0, x1), max(0.0, y1), min(float(PICTURE_WH[0]), x2), min(float(PICTURE_WH[1]), y2)
    width, height = inside[2] - inside[0], inside[3] - inside[1]
    if width < 2 or height < 2:
        return []
    visible = float(share) * width * height / max(1.0, (x2 - x1) * (y2 - y1))
    return [SeenObject(kind, inside, float(min(1.0, visible)), max(0.0, 1.0 - share), vehicle, brand, body, plate)]


def _glow_template() -> NDArray[np.uint8]:
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    away = np.hypot(x, y)
    glow = np.clip(1.4 * np.exp(-((away / 0.16) ** 2)) + 0.5 * np.exp(-((away / 0.42) ** 2)), 0, 1)
    glow = glow * np.clip(1.2 * (1 - away), 0, 1)
    return np.asarray(glow[..., None] * (235, 245, 255), np.uint8)
