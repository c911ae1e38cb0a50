"""The shapes of vehicles: meshes of small faces, each of one material.

A body is a lower part, lofted from cross-sections along its length, and a cabin, lofted from outlines at rising
heights; vans and trucks have a box behind. Local coordinates: x from -width/2 to width/2, y up, z from the front.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from detector_worker.simulator.scenes.geometry import Floats

__all__ = [
    "BODIES",
    "BOX",
    "GLASS",
    "LAMP",
    "PAINT",
    "TRIM",
    "TYRE",
    "Mesh",
    "Shape",
    "body_mesh",
    "body_points",
    "shape_of",
]

PAINT, GLASS, TRIM, TYRE, BOX, LAMP = range(6)


@dataclass(frozen=True, slots=True)
class Shape:
    """The measures of a body type, metres."""

    length: float
    width: float
    height: float
    clearance: float
    hood_front: float
    hood_rear: float
    deck: float
    """Height of the lower part at the rear."""
    cabin: tuple[float, float, float, float]
    """Along z: foot of the windscreen, front edge of the roof, its rear edge, foot of the rear window."""
    roof_share: float = 0.8
    """Width of the roof, of the body's width."""
    windows_to: float = 99.0
    """Up to which z the sides have windows."""
    box: tuple[float, float, float] | None = None
    """A cargo box: z from, z to, height."""


_SHAPES: Final = {
    "hatchback": Shape(3.7, 1.70, 1.52, 0.20, 0.78, 0.98, 0.95, (0.85, 1.65, 3.3, 3.66)),
    "sedan": Shape(4.8, 1.82, 1.38, 0.16, 0.66, 0.88, 0.94, (1.50, 2.20, 3.25, 4.00), roof_share=0.72),
    "suv": Shape(4.6, 1.95, 1.84, 0.30, 1.04, 1.16, 1.12, (1.25, 1.80, 4.25, 4.55), roof_share=0.80),
    "pickup": Shape(5.3, 1.96, 1.88, 0.34, 1.08, 1.18, 1.10, (1.45, 2.00, 3.00, 3.25), roof_share=0.76),
    "van": Shape(5.0, 1.96, 2.25, 0.24, 0.98, 1.16, 1.16, (0.55, 1.25, 4.90, 4.98), roof_share=0.88, windows_to=2.0),
    "truck": Shape(
        6.4, 2.15, 2.20, 0.36, 1.12, 1.16, 1.16, (0.06, 0.30, 1.75, 1.80), roof_share=0.92, box=(1.95, 6.4, 2.5)
    ),
}
BODIES: Final = tuple(_SHAPES)


@dataclass(frozen=True, slots=True)
class Mesh:
    """Faces of four corners.

    Attributes:
        corners: Shape (N, 4, 3), metres.
        normals: Shape (N, 3), unit length, outwards.
        material: Shape (N,).
    """

    corners: Floats
    normals: Floats
    material: np.ndarray


def shape_of(body: str) -> Shape:
    """Return the measures of a body type."""
    return _SHAPES[body]


@cache
def body_mesh(body: str) -> Mesh:
    """Build the mesh of a body type."""
    shape = _SHAPES[body]
    parts = [_lower_part(shape), _cabin(shape), *_wheels(shape), *_mirrors(shape)]
    if shape.box is not None:
        parts.append(_cargo_box(shape, *shape.box))
    corners = np.concatenate([corners for corners, _ in parts])
    material = np.concatenate([material for _, material in parts])
    normals = np.cross(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1])
    # Every part bulges around its own middle, so that is what tells outside from inside.
    outwards = np.concatenate([part.mean(axis=1) - part.mean(axis=(0, 1)) for part, _ in parts])
    normals *= np.where((normals * outwards).sum(axis=1) < 0, -1.0, 1.0)[:, None]
    lengths = np.linalg.norm(normals, axis=1)
    sound = lengths > 1e-9
    return Mesh(corners[sound], normals[sound] / lengths[sound, None], material[sound])


@cache
def body_points(body: str) -> Floats:
    """Return the corners of all faces once each, shape (N, 3)."""
    return np.unique(body_mesh(body).corners.reshape(-1, 3).round(3), axis=0)


Part = tuple[Floats, np.ndarray]


def _loft(rings: Floats, *, closed: bool) -> Floats:
    """Join rings of points, shape (R, P, 3), into faces, shape (F, 4, 3)."""
    following = np.roll(rings, -1, axis=1) if closed else rings[:, 1:]
    rings = rings if closed else rings[:, :-1]
    faces = np.stack((rings[:-1], following[:-1], following[1:], rings[1:]), axis=2)
    return faces.reshape(-1, 4, 3)


def _lower_part(shape: Shape) -> Part:
    """The body up to hood, belt and deck: cross-sections like a rounded box, narrower at the nose."""
    stations = np.concatenate(([0.0, 0.03, 0.08, 0.16, 0.3], np.linspace(0.5, shape.length - 0.3, 26)))
    stations = np.concatenate((stations, shape.length - np.array([0.16, 0.06, 0.0])))
    foot = shape.cabin[0]
    tops = np.interp(stations, (0, foot, shape.cabin[3], shape.length),
                     (shape.hood_front, shape.hood_rear, shape.deck, shape.deck - 0.04))  # fmt: skip
    ends = np.minimum(np.minimum(stations, shape.length - stations) / 0.3, 1.0)
    rounding = 1 - (1 - np.sqrt(1 - (1 - ends) ** 2)) * np.array(0.10)
    rings = [
        _section(shape.width / 2 * share, shape.clearance, top - 0.06 * (1 - share) * 10, z)
        for z, top, share in zip(stations, tops, rounding, strict=True)
    ]
    faces = np.concatenate((_loft(np.array(rings), closed=False), _front(shape)))
    centre = faces.mean(axis=1)
    material = np.full(len(faces), PAINT)
    material[centre[:, 1] < shape.clearance + 0.10] = TRIM
    for wheel_z in _axles(shape):
        arch = np.hypot(centre[:, 2] - wheel_z, centre[:, 1] - 0.33) < 0.42
        material[arch & (np.abs(centre[:, 0]) > shape.width * 0.44)] = TRIM
    return faces, material


def _section(half: float, bottom: float, top: float, z: float) -> Floats:
    """One cross-section from the lower right over the top to the lower left."""
    radius = min(0.16, (top - bottom) * 0.4)
    angles = np.linspace(0, np.pi / 2, 6)
    side = np.stack((np.full(6, half), np.linspace(bottom, top - radius, 6)), axis=1)
    arc = np.stack((half - radius + radius * np.cos(angles), top - radius + radius * np.sin(angles)), axis=1)[1:]
    across = np.linspace(half - radius, 0, 6)[1:]
    # Hoods are crowned: a flat one would mirror the sky in one piece.
    crown = np.stack((across, top + 0.035 * (1 - (across / half) ** 2)), axis=1)
    right = np.concatenate((side, arc, crown))
    left = right[-2::-1] * (-1, 1)
    outline = np.concatenate((right, left))
    return np.concatenate((outline, np.full((len(outline), 1), z)), axis=1)


def _front(shape: Shape) -> Floats:
    """The face that looks at the camera, as a few rows."""
    half, rows = shape.width / 2 * 0.9, np.linspace(shape.clearance, shape.hood_front - 0.05, 9)
    return _loft(np.array([[(half, y, 0.0), (0.0, y, -0.02), (-half, y, 0.0)] for y in rows]), closed=False)


def _cabin(shape: Shape) -> Part:
    """Windows, pillars and roof."""
    foot, roof_front, roof_rear, rear = shape.cabin
    base, half = min(shape.hood_rear, shape.deck) - 0.04, shape.width / 2
    levels = np.concatenate((np.linspace(0, 0.93, 9), [0.97, 1.0]))
    rings = [
        _outline(
            half * (0.95 + (shape.roof_share - 0.95) * t),
            foot + (roof_front - foot) * t,
            rear + (roof_rear - rear) * t,
            base + (shape.height - base) * t,
        )
        for t in levels
    ]
    middle = np.array([0.0, 0.0, (roof_front + roof_rear) / 2])
    for share, rise in ((0.96, 0.025), (0.7, 0.05), (0.35, 0.06), (0.02, 0.065)):
        rings.append((rings[10] - middle) * (share, 1, share) + middle + (0, rise, 0))
    faces = _loft(np.array(rings), closed=True)
    per_ring = len(rings[0])
    level, place = np.arange(len(faces)) // per_ring, np.arange(len(faces)) % per_ring
    centre = faces.mean(axis=1)
    is_corner = place % (per_ring // 4) < 2
    is_side = np.abs(centre[:, 0]) > half * 0.62
    glass = (level >= 1) & (level < 8) & ~is_corner & ~(is_side & (centre[:, 2] > shape.windows_to))
    material = np.where(glass, GLASS, PAINT)
    door_post = is_side & glass & (np.abs(centre[:, 2] - (roof_front + roof_rear) / 2) < 0.09)
    material[door_post] = TRIM
    return faces, material


def _outline(half: float, front: float, rear: float, y: float) -> Floats:
    """A rounded rectangle seen from above, four sides of sixteen points each, anticlockwise from the front right."""
    radius, arc = 0.10, np.linspace(0, np.pi / 2, 3)
    points: list[tuple[float, float]] = []
    bulge = 0.07 * half
    corners = ((half, rear, 0.0), (-half, rear, np.pi / 2), (-half, front, np.pi), (half, front, 1.5 * np.pi))
    for number, (x, z, turn) in enumerate(corners):
        centre_x, centre_z = x - np.sign(x) * radius, z + (radius if z == front else -radius)
        points += [(centre_x + radius * np.cos(turn + a), centre_z + radius * np.sin(turn + a)) for a in arc]
        next_x, next_z, next_turn = corners[(number + 1) % 4]
        end = points[-1]
        goal_x = next_x - np.sign(next_x) * radius + radius * np.cos(next_turn)
        goal_z = next_z + (radius if next_z == front else -radius) + radius * np.sin(next_turn)
        for step in np.arange(1, 14) / 14:
            curve = bulge * 4 * step * (1 - step) if number == 2 else 0.0  # windscreens are curved
            points.append((end[0] + (goal_x - end[0]) * step, end[1] + (goal_z - end[1]) * step - curve))
    flat = np.array(points)
    return np.stack((flat[:, 0], np.full(len(flat), y), flat[:, 1]), axis=1)


def _axles(shape: Shape) -> tuple[float, float]:
    return 0.18 * shape.length, 0.80 * shape.length


def _wheels(shape: Shape) -> list[Part]:
    """Four tyres: a tread, which is what the front view shows, and a disc with a rim outside."""
    radius, parts = 0.33 if shape.clearance < 0.28 else 0.40, []
    angles = np.linspace(0, 2 * np.pi, 25)
    for z in _axles(shape):
        for side in (-1, 1):
            outer, inner = side * shape.width / 2 * 0.985, side * (shape.width / 2 - 0.22)
            rings = []
            for x, share in ((inner, 1.0), (outer, 1.0), (outer, 0.65), (outer, 0.62), (outer, 0.05)):
                y, along = radius + radius * share * np.sin(angles), z + radius * share * np.cos(angles)
                rings.append(np.stack((np.full(25, x), y, along), axis=1))
            faces = _loft(np.array(rings), closed=False)
            parts.append((faces, np.where(np.arange(len(faces)) < 72, TYRE, LAMP)))
    return parts


def _cargo_box(shape: Shape, front: float, rear: float, height: float) -> Part:
    half, base = shape.width / 2 + 0.04, shape.clearance + 0.30
    rows = np.linspace(base, height, 10)
    outline = [(half, rear), (-half, rear), (-half, front), (half, front)]
    rings = np.array([[(x, y, z) for x, z in _subdivided(outline, 12)] for y in rows])
    top = np.array([[(x, height, z) for x in np.linspace(half, -half, 9)] for z in np.linspace(front, rear, 9)])
    faces = np.concatenate((_loft(rings, closed=True), _loft(top, closed=False)))
    return faces, np.full(len(faces), BOX)


def _mirrors(shape: Shape) -> list[Part]:
    """Two small boxes beside the windscreen."""
    y, z, half = shape.hood_rear + 0.08, shape.cabin[0] + 0.25, shape.width / 2
    size = 0.10 if shape.height < 2 else 0.16
    parts = []
    for side in (-1, 1):
        inner, outer = side * half * 0.96, side * (half + size * 1.6)
        outline = [(inner, z), (outer, z), (outer, z + 0.12), (inner, z + 0.12)]
        rings = np.array([[(x, y + rise, along) for x, along in outline] for rise in (0, size * 0.5, size * 1.2)])
        lid = np.array([[(x, y + size * 1.2, along) for x in (inner, outer)] for along in (z, z + 0.12)])
        faces = np.concatenate((_loft(rings, closed=True), _loft(lid, closed=False)))
        parts.append((faces, np.full(len(faces), PAINT if shape.height < 2 else TRIM)))
    return parts


def _subdivided(outline: list[tuple[float, float]], steps: int) -> list[tuple[float, float]]:
    points = []
    for (x1, z1), (x2, z2) in zip(outline, outline[1:] + outline[:1], strict=True):
        points += [(x1 + (x2 - x1) * t, z1 + (z2 - z1) * t) for t in np.arange(steps) / steps]
    return points
