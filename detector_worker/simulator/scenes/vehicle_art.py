"""Pictures of vehicles: rendered per place on the road, kept, and moved by what lies between two places.

The faces of a body are drawn once per place as numbers of faces; each vehicle then only looks up its own colours.
"""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.simulator.scenes.bodies import (
    BODIES,
    BOX,
    GLASS,
    LAMP,
    PAINT,
    TRIM,
    TYRE,
    body_mesh,
    body_points,
    shape_of,
)
from detector_worker.simulator.scenes.brands import BRANDS, PLATE_ROW, fascia
from detector_worker.simulator.scenes.geometry import PICTURE_WH, Floats, SceneCamera, on_road
from detector_worker.simulator.scenes.light import Light, shown
from detector_worker.simulator.scenes.plates import PLATE_M, plate_image, random_plate
from detector_worker.simulator.scenes.sprite import Sprite

__all__ = ["COLOURS", "Look", "VehicleArtist", "vehicle_box"]

COLOURS: Final = {
    "white": (0.86, 0.87, 0.87),
    "silver": (0.58, 0.58, 0.57),
    "grey": (0.27, 0.26, 0.25),
    "black": (0.035, 0.033, 0.032),
    "red": (0.07, 0.05, 0.55),
    "blue": (0.45, 0.17, 0.06),
    "green": (0.13, 0.26, 0.08),
    "yellow": (0.06, 0.60, 0.80),
}
"""BGR, reflected share."""
_ALBEDO: Final = {GLASS: 0.02, TRIM: 0.05, TYRE: 0.035, BOX: 0.72, LAMP: 0.42}
_SUPERSAMPLED: Final = 2
_MARGIN_PX: Final = 40
_STEP: Final = 1.04
_BEYOND_M: Final = 8.0
_SUBPIXEL_BITS: Final = 4


@dataclass(frozen=True, slots=True)
class Look:
    """What tells one vehicle from another."""

    brand: str
    body: str
    colour: str
    plate: str

    @classmethod
    def random(cls, rng: random.Random) -> "Look":
        """Any combination."""
        return cls(rng.choice(BRANDS), rng.choice(BODIES), rng.choice(tuple(COLOURS)), random_plate(rng))


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A body's faces as they cover the picture at one place."""

    number: NDArray[np.int32]
    """Supersampled; 0 for none, else the row of ``faces`` plus one."""
    shadow: NDArray[np.uint8]
    faces: NDArray[np.intp]
    left: int
    top: int


class VehicleArtist:
    """Draws vehicles for one camera in one light. Not thread-safe; keeps what it has drawn."""

    def __init__(self, camera: SceneCamera, light: Light) -> None:
        self._camera, self._light = camera, light
        self._drawn = lru_cache(maxsize=256)(self._draw_faces)
        self._sprites = lru_cache(maxsize=96)(self._paint)
        self._moved = lru_cache(maxsize=16)(self._move)  # for those that stand

    def sprite(self, look: Look, x: float, z: float) -> Sprite | None:
        """Return a vehicle's picture with its front at z; None where nothing of it is in the picture."""
        number = round(np.log(z + _BEYOND_M) / np.log(_STEP))
        near = float(_STEP**number - _BEYOND_M)
        return self._moved(look, x, near, z)

    def _move(self, look: Look, x: float, near: float, z: float) -> Sprite | None:
        sprite = self._sprites(look, x, near)
        if sprite is None:
            return None
        return _moved(sprite, self._corners(look.body, x, near), self._corners(look.body, x, z))

    def frontal_box(self, body: str, x: float, z: float) -> tuple[float, float, float, float]:
        """Return the box around its front."""
        return _around(self._camera.project(_fascia_corners(body) + on_road(x, z)))

    def plate_box(self, body: str, x: float, z: float) -> tuple[float, float, float, float]:
        """Return the box around its plate."""
        return _around(self._camera.project(_plate_corners(body) + on_road(x, z)))

    def lamps(self, body: str, x: float, z: float) -> Floats:
        """Return column, row and distance of the two headlights, shape (2, 3)."""
        corners = _fascia_corners(body)
        low, high = corners[3, 1], corners[0, 1]
        points = np.array([(corners[0, 0] * s, low + (high - low) * 0.68, -0.05) for s in (0.78, -0.78)])
        return self._camera.project(points + on_road(x, z))

    def _corners(self, body: str, x: float, z: float) -> Floats:
        shape = shape_of(body)
        half, length = shape.width / 2, min(2.5, shape.length)
        points = [
            (s * half, y, along) for s in (-1, 1) for y in (shape.clearance, shape.hood_front) for along in (0.0,)
        ]
        points += [(s * half * 0.8, shape.height, length) for s in (-1, 1)]
        return self._camera.project(np.array(points) + on_road(x, z))[:, :2]

    def _paint(self, look: Look, x: float, z: float) -> Sprite | None:
        drawn = self._drawn(look.body, x, z)
        if drawn is None:
            return None
        colours = np.zeros((len(drawn.faces) + 1, 4), np.uint8)
        colours[1:, :3] = self._face_colours(look, drawn.faces, x, z)
        colours[1:, 3] = 255
        # One look-up of four bytes for each pixel.
        full = colours.view(np.uint32)[:, 0].take(drawn.number).view(np.uint8).reshape(*drawn.number.shape, 4)
        self._put_on(full, fascia(look.brand), _fascia_corners(look.body), drawn, (x, z))
        plate = np.full((100, 400, 4), 255, np.uint8)
        plate[..., :3] = plate_image(look.plate)
        self._put_on(
            full, plate, _plate_corners(look.body), drawn, (x, z), shine=1.3 if self._light.headlights else 1.0
        )
        height, width = drawn.shadow.shape
        image = np.asarray(cv2.resize(full, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        image[..., 3] = cv2.max(image[..., 3], drawn.shadow)
        return Sprite(image, drawn.left, drawn.top)

    def _face_colours(self, look: Look, faces: NDArray[np.intp], x: float, z: float) -> NDArray[np.uint8]:
        """Return the colour of each face, shape (N, 3), BGR."""
        mesh, light = body_mesh(look.body), self._light
        normals, material = mesh.normals[faces], mesh.material[faces]
        view = self._camera.position() - (mesh.corners[faces].mean(axis=1) + on_road(x, z))
        view /= np.linalg.norm(view, axis=1)[:, None]
        albedo = np.zeros((len(faces), 3))
        albedo[material == PAINT] = COLOURS[look.colour]
        for kind, share in _ALBEDO.items():
            albedo[material == kind] = share
        facing = np.clip((normals * view).sum(axis=1), 0, 1)[:, None]
        rays = 2 * facing * normals - view
        gloss = np.select([material == PAINT, material == GLASS], [0.06, 0.22], 0.01)[:, None]
        fresnel = gloss + (0.75 - gloss) * (gloss > 0.02) * (1 - facing) ** 4
        glint = np.clip(rays @ light.sun, 0, 1)[:, None] ** 60 * (material == PAINT)[:, None] * 0.9
        lit = light.on_faces(albedo, normals) + fresnel * light.mirrored(rays) + glint * light.sun_colour
        height = mesh.corners[faces, :, 1].mean(axis=1)[:, None]
        lit *= 0.72 + 0.28 * np.clip(height / 0.7, 0, 1)  # little light comes from below
        return (shown(np.clip(lit, 0, 1)) * 255).astype(np.uint8)

    def _put_on(
        self,
        full: NDArray[np.uint8],
        picture: NDArray[np.uint8],
        corners: Floats,
        drawn: _Drawn,
        place: tuple[float, float],
        *,
        shine: float = 1.0,
    ) -> None:
        """Lay a flat picture onto the vehicle's front, in the light that falls there."""
        seen = self._camera.project(corners + on_road(*place))[:, :2]
        goal = ((seen - (drawn.left, drawn.top)) * _SUPERSAMPLED).astype(np.float32)
        height, width = picture.shape[:2]
        while width > 1.6 * np.ptp(goal[:, 0]) and width > 32:  # else fine lines would flicker
            width, height = width // 2, height // 2
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        source = np.array(((0, 0), (width, 0), (width, height), (0, height)), np.float32)
        x1, y1 = np.maximum(np.floor(goal.min(axis=0)).astype(int) - 1, 0)
        x2, y2 = np.minimum(np.ceil(goal.max(axis=0)).astype(int) + 1, (full.shape[1], full.shape[0]))
        if x1 >= x2 or y1 >= y2:
            return
        matrix = cv2.getPerspectiveTransform(source, goal - np.array((x1, y1), np.float32))
        laid = cv2.warpPerspective(picture, matrix, (int(x2 - x1), int(y2 - y1)), flags=cv2.INTER_LINEAR)
        lit = self._light.on_faces(np.ones((1, 3)), np.array([[0.0, 0.1, -1.0]]))[0]
        lit = shown(np.clip(lit * shine, 0.0, 1.05))
        part = full[y1:y2, x1:x2, :3]
        part[:] = np.clip(part * (1 - laid[..., 3:] / 255.0) + laid[..., :3] * lit, 0, 255).astype(np.uint8)

    def _draw_faces(self, body: str, x: float, z: float) -> _Drawn | None:
        mesh = body_mesh(body)
        placed = mesh.corners + on_road(x, z)
        view = self._camera.position() - placed.mean(axis=1)
        faces = np.flatnonzero(((mesh.normals * view).sum(axis=1) > 0) & (placed[..., 2].min(axis=1) > 0.3))
        if not len(faces):
            return None
        faces = faces[np.argsort(-np.linalg.norm(view[faces], axis=1))]
        seen = self._camera.project(placed[faces].reshape(-1, 3))[:, :2].reshape(-1, 4, 2)
        ground = self._shadow_outline(body, x, z)
        low = np.maximum(np.floor(np.minimum(seen.min(axis=(0, 1)), ground.min(axis=0))) - 8, -_MARGIN_PX).astype(int)
        high = np.ceil(np.maximum(seen.max(axis=(0, 1)), ground.max(axis=0))).astype(int) + 8
        high = np.minimum(high, np.array(PICTURE_WH) + _MARGIN_PX)
        width, height = (high - low).tolist()
        if width < 8 or height < 8:
            return None
        number = np.zeros((height * _SUPERSAMPLED, width * _SUPERSAMPLED), np.int32)
        corners = np.round((seen - low) * _SUPERSAMPLED * 2**_SUBPIXEL_BITS).astype(np.int32)
        for row, corner in enumerate(corners, 1):
            cv2.fillConvexPoly(number, corner, row, cv2.LINE_8, _SUBPIXEL_BITS)
        shadow = np.zeros((height, width), np.uint8)
        cv2.fillPoly(shadow, [np.round(ground - low).astype(np.int32)], int(255 * self._light.shadow))
        blur = max(3, int(width * 0.03) | 1)
        soft = np.asarray(cv2.blur(cv2.blur(shadow, (blur, blur)), (blur, blur)), np.uint8)
        return _Drawn(number, soft, faces, *low.tolist())

    def _shadow_outline(self, body: str, x: float, z: float) -> Floats:
        """The ground that the vehicle keeps the light from: below it, and away from the sun."""
        shape, sun = shape_of(body), self._light.sun
        half, height = shape.width / 2 * 0.98, shape.height * 0.8
        reach = height / max(float(sun[1]), 0.4) * (0.1 if self._light.name == "rain" else 1.0)
        base = np.array([(s * half, 0.0, along) for s in (-1, 1) for along in (0.02, shape.length - 0.05)])
        thrown = base - np.array((sun[0], 0.0, sun[2])) * reach * np.array((0.9, 0, 0.9))
        points = _visible(np.concatenate((base, thrown)) + on_road(x, z))
        return cv2.convexHull(self._camera.project(points)[:, :2].astype(np.float32))[:, 0].astype(np.float64)


def vehicle_box(camera: SceneCamera, body: str, x: float, z: float) -> tuple[float, float, float, float]:
    """Return the box around a whole vehicle; not clipped to the picture."""
    return _around(camera.project(_visible(body_points(body) + on_road(x, z))))


def _fascia_corners(body: str) -> Floats:
    """The corners of the front, upper left first as the camera sees it, clockwise."""
    shape = shape_of(body)
    half, low, high = shape.width / 2 * 0.92, shape.clearance, shape.hood_front - 0.04
    return np.array([(-half, high, -0.01), (half, high, -0.01), (half, low, -0.01), (-half, low, -0.01)])


def _plate_corners(body: str) -> Floats:
    shape = shape_of(body)
    width, height = PLATE_M
    middle = shape.clearance + (shape.hood_front - shape.clearance) * PLATE_ROW
    low, high, half = middle - height / 2, middle + height / 2, width / 2
    return np.array([(-half, high, -0.03), (half, high, -0.03), (half, low, -0.03), (-half, low, -0.03)])


def _visible(points: Floats) -> Floats:
    """Bring what is behind the camera to its feet, below the picture."""
    points = points.copy()
    points[:, 2] = np.maximum(points[:, 2], 0.6)
    return points


def _around(seen: Floats) -> tuple[float, float, float, float]:
    (x1, y1), (x2, y2) = seen[:, :2].min(axis=0), seen[:, :2].max(axis=0)
    return float(x1), float(y1), float(x2), float(y2)


def _moved(sprite: Sprite, old: Floats, new: Floats) -> Sprite:
    """Move and scale a picture as a few points of the vehicle move."""
    centred = old - old.mean(axis=0)
    scale = float((centred * (new - new.mean(axis=0))).sum() / (centred**2).sum())
    shift = new.mean(axis=0) - scale * old.mean(axis=0)
    height, width = sprite.image.shape[:2]
    corner = scale * np.array((sprite.left, sprite.top)) + shift
    left, top = np.floor(corner).astype(int)
    matrix = np.array(((scale, 0, corner[0] - left), (0, scale, corner[1] - top)))
    wh = (int(np.ceil(width * scale)) + 2, int(np.ceil(height * scale)) + 2)
    image = np.asarray(cv2.warpAffine(sprite.image, matrix, wh, flags=cv2.INTER_LINEAR), np.uint8)
    return Sprite(image, int(left), int(top))
