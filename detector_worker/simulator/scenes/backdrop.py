"""The place where a scene camera hangs, painted once a film: road, kerbs, a building, hedges, a booth, posts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detector_worker.simulator.scenes.geometry import PICTURE_WH, SceneCamera
from detector_worker.simulator.scenes.light import Light, shown

__all__ = ["LAMP_UNIT", "Backdrop", "paint_backdrop"]

LAMP_UNIT: Final = 1 / 200
_PX_PER_M: Final = 36
_SIDE_M: Final = 15.0
_FAR_M: Final = 46.0
_NEAR_M: Final = 1.2
Canvas = NDArray[np.float32]
_ToPx = Callable[[float], int]
_Colour = tuple[float, float, float]
_ARM: Final[tuple[_Colour, _Colour]] = (0.8, 0.8, 0.8), (0.10, 0.08, 0.62)


@dataclass(frozen=True, slots=True)
class Backdrop:
    """Both of the canvas' size: the picture's plus its margins."""

    image: NDArray[np.uint8]
    """BGR."""
    margin_px: int
    """Around the picture on each side, so that a shaking camera still sees something at its edges."""
    lamp: NDArray[np.uint8] | None
    """Below a lamp, how bright things are at each place, shape (H, W, 4), in units of `LAMP_UNIT`; None: all alike."""


def paint_backdrop(
    camera: SceneCamera, light: Light, seed: int, *, margin_px: int, light_changes: bool = False
) -> Backdrop:
    """Paint the empty place.

    Args:
        camera: Who looks at it.
        light: What it is seen in.
        seed: Decides what stands there.
        margin_px: Around the picture on each side.
        light_changes: It must be the same place in any light: otherwise what stands there depends on it.
    """
    rng = np.random.default_rng(seed)
    width, height = PICTURE_WH[0] + 2 * margin_px, PICTURE_WH[1] + 2 * margin_px
    canvas = _sky(camera, light, (width, height), rng)
    ground = _ground(camera, rng) * light.on_faces(np.ones((1, 3)), np.array([[0.0, 1.0, 0.0]]))[0]
    if light.name == "rain":
        ground = _wet(ground, light, rng)
    _lay(canvas, ground, camera, [(x, 0.0, z) for x, z in ((-_SIDE_M, _FAR_M), (_SIDE_M, _FAR_M),
                                                           (_SIDE_M, _NEAR_M), (-_SIDE_M, _NEAR_M))])  # fmt: skip
    _build(canvas, camera, light, rng, light_changes=light_changes)
    lamp = _lamp_light(camera, (width, height)) if light.has_lamp else None
    picture = shown(np.clip(canvas if lamp is None else canvas * lamp, 0, 1)) * 255
    image = cv2.GaussianBlur(picture, (3, 3), 0.6).astype(np.uint8)
    if lamp is None:
        return Backdrop(image, margin_px, None)
    bright = np.repeat(shown(lamp) / LAMP_UNIT, 4, axis=2)
    bright[..., 3] = 1 / LAMP_UNIT  # opacity stays
    return Backdrop(image, margin_px, bright.astype(np.uint8))


def _margin_px(canvas_width: int) -> int:
    return (canvas_width - PICTURE_WH[0]) // 2


def _noise(rng: np.random.Generator, hw: tuple[int, int], cell: int) -> NDArray[np.float32]:
    """Smooth noise of mean 0 and deviation 1; ``cell`` is the size of its lumps."""
    height, width = hw
    small = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def _sky(camera: SceneCamera, light: Light, wh: tuple[int, int], rng: np.random.Generator) -> Canvas:
    rows = np.clip((camera.horizon_px - np.arange(wh[1])) / 300, 0, 1)[:, None, None]
    sky = light.horizon + (light.zenith - light.horizon) * rows
    clouds = np.clip(_noise(rng, (wh[1], wh[0]), 90), 0, 2)[..., None] * 0.06
    return (np.broadcast_to(sky, (wh[1], wh[0], 3)) + clouds * light.horizon).astype(np.float32)


def _ground(camera: SceneCamera, rng: np.random.Generator) -> Canvas:
    """The ground seen from above, reflected share; row 0 is far away."""
    hw = int((_FAR_M - _NEAR_M) * _PX_PER_M), int(2 * _SIDE_M * _PX_PER_M)
    grain = rng.standard_normal(hw).astype(np.float32)
    patches = _noise(rng, hw, 240) + 0.5 * _noise(rng, hw, 60)
    tone = 0.25 + 0.022 * grain + 0.022 * patches
    ground = np.repeat(tone[..., None].astype(np.float32), 3, axis=2)

    def row(z: float) -> int:
        return int((_FAR_M - z) * _PX_PER_M)

    def column(x: float) -> int:
        return int((x + _SIDE_M) * _PX_PER_M)

    edge = camera.lane_m * 2 + 0.25
    for side in (-1, 1):  # paving, then a kerb, outside the two lanes; on the left after a bay to park in
        inner = edge if side > 0 else edge + 2.6
        x1, x2 = sorted((column(side * inner), column(side * _SIDE_M)))
        x1, x2 = max(0, x1), min(hw[1], x2)
        slab = tone[:, x1:x2, None] * 0.6 + np.array((0.22, 0.24, 0.25)) + 0.01 * grain[:, x1:x2, None]
        slab[:: _PX_PER_M // 2] *= 0.82
        slab[:, :: _PX_PER_M // 2] *= 0.82
        ground[:, x1:x2] = slab
        k1, k2 = sorted((column(side * inner), column(side * (inner + 0.18))))
        ground[:, k1:k2] = 0.46 + 0.03 * grain[:, k1:k2, None]
        ground[::_PX_PER_M, k1:k2] *= 0.7
    _mark(ground, camera, column, row, edge)
    for _ in range(14):  # oil and tyres
        x, z = rng.normal(0, camera.lane_m * 1.3), rng.uniform(_NEAR_M, 25)
        stain = np.zeros(hw, np.float32)
        cv2.ellipse(stain, (column(x), row(z)), (int(rng.uniform(4, 16)), int(rng.uniform(6, 60))), 0, 0, 360, 1, -1)
        ground *= 1 - 0.18 * cv2.GaussianBlur(stain, (0, 0), 5)[..., None]
    for _ in range(5):  # cracks
        steps = np.cumsum(rng.normal(0, 5, (60, 2)) + rng.normal(0, 3, 2), axis=0)
        start = np.array((rng.uniform(0, hw[1]), rng.uniform(hw[0] * 0.5, hw[0])))
        cv2.polylines(ground, [np.asarray(start + steps, np.int32)], False, (0.13, 0.13, 0.13), 1, cv2.LINE_AA)
    return ground


def _mark(ground: Canvas, camera: SceneCamera, column: _ToPx, row: _ToPx, edge: float) -> None:
    """White paint: lane edges, the middle, the stop line, the parking bay."""
    worn = np.clip(0.72 + 0.10 * cv2.GaussianBlur(ground[..., 0], (0, 0), 3) - 0.05, 0, 1)[..., None]

    def stripe(x1: float, x2: float, z1: float, z2: float) -> None:
        part = slice(row(z2), row(z1)), slice(column(x1), column(x2))
        ground[part] = ground[part] * 0.25 + worn[part] * 0.75

    for z in np.arange(_NEAR_M, _FAR_M - 3, 4.5):
        stripe(-0.06, 0.06, z, z + 2.2)
    stripe(edge - 0.22, edge - 0.10, _NEAR_M, _FAR_M)
    stripe(-edge + 0.10, -edge + 0.22, _NEAR_M, _FAR_M)
    line = max(_NEAR_M, camera.stop_m - 0.9)
    stripe(-edge + 0.3, -0.2, line, line + 0.35)
    stripe(0.2, edge - 0.3, line, line + 0.35)
    for z in (camera.bay_m - 0.5, camera.bay_m + 5.3):
        stripe(-edge - 2.5, -edge, z, z + 0.1)


def _wet(ground: Canvas, light: Light, rng: np.random.Generator) -> Canvas:
    """Darker, with puddles that mirror the sky."""
    puddles = np.clip(_noise(rng, ground.shape[:2], 70) + 0.5 * _noise(rng, ground.shape[:2], 25) - 0.6, 0, 1)[
        ..., None
    ]
    return np.asarray(ground * 0.62 * (1 - 0.6 * puddles) + light.horizon * (0.05 + 0.35 * puddles), np.float32)


def _lay(canvas: Canvas, texture: Canvas, camera: SceneCamera, corners: list[tuple[float, float, float]]) -> None:
    """Lay a texture onto a plane in the world; corners clockwise from the texture's upper left."""
    height, width = texture.shape[:2]
    source = np.array(((0, 0), (width, 0), (width, height), (0, height)), np.float32)
    goal = (camera.project(np.array(corners, np.float64))[:, :2] + _margin_px(canvas.shape[1])).astype(np.float32)
    x1, y1 = np.maximum(np.floor(goal.min(axis=0)), 0).astype(int).tolist()
    x2, y2 = np.minimum(np.ceil(goal.max(axis=0)) + 1, (canvas.shape[1], canvas.shape[0])).astype(int).tolist()
    if x1 >= x2 or y1 >= y2:
        return
    matrix = cv2.getPerspectiveTransform(source, goal - np.array((x1, y1), np.float32))
    laid = cv2.warpPerspective(texture, matrix, (x2 - x1, y2 - y1), flags=cv2.INTER_AREA)
    cover = cv2.warpPerspective(np.ones(texture.shape[:2], np.float32), matrix, (x2 - x1, y2 - y1))[..., None]
    part = canvas[y1:y2, x1:x2]
    part *= 1 - cover
    part += laid * cover


def _build(canvas: Canvas, camera: SceneCamera, light: Light, rng: np.random.Generator, *, light_changes: bool) -> None:
    """A building behind, hedges, a booth, and the gate's posts with their raised arms."""
    facade = _facade(light, rng, light_changes=light_changes)
    _lay(canvas, facade, camera, [(-16, 9, 40), (16, 9, 40), (16, 0, 40), (-16, 0, 40)])
    edge = camera.lane_m * 2 + 0.25

    def put(x: float, half: float, y: tuple[float, float], z: tuple[float, float], colour: _Colour) -> None:
        _cuboid(canvas, camera, light, ((x - half, x + half), y, z), colour)

    for _ in range(7):
        side = rng.choice((-1, 1))
        x, z = side * (edge + (3.4 if side < 0 else 0.9) + rng.uniform(0.3, 3)), rng.uniform(13, 30)
        put(x, 0.8, (0, rng.uniform(0.7, 1.3)), (z, z + 2), (0.07, 0.17, 0.08))
    z = camera.stop_m + 1.2
    put(edge + 1.3, 0.8, (0, 2.5), (z, z + 1.8), (0.42, 0.44, 0.40))
    put(edge + 1.3, 0.55, (1.1, 2.1), (z - 0.02, z), (0.06, 0.05, 0.04))
    for x in (edge + 0.25, -edge - 2.75):
        post = camera.stop_m - 0.6
        put(x, 0.16, (0, 1.1), (post, post + 0.3), (0.05, 0.42, 0.75))
        for number in range(8):
            low = 1.1 + number * 0.4
            put(x, 0.05, (low, low + 0.4), (post + 0.1, post + 0.2), _ARM[number % 2])


def _facade(light: Light, rng: np.random.Generator, *, light_changes: bool) -> Canvas:
    wall = np.full((270, 960, 3), rng.uniform(0.28, 0.5, 3) * 0.3 + 0.25, np.float32)
    wall += 0.02 * _noise(rng, (270, 960), 12)[..., None]
    lit = light.name in {"night", "dusk"}
    wall[165:270, 960 // 2 - 140 : 960 // 2 + 140] = 0.02  # the underpass that vehicles come out of
    for x in range(30, 930, 90):
        for y in (30, 140):
            if y == 140 and 960 // 2 - 200 < x < 960 // 2 + 150:
                continue
            at_home = (lit or light_changes) and rng.random() < 0.4
            warm = (0.45, 0.75, 0.95) if lit and at_home else (0.16, 0.12, 0.10)
            wall[y : y + 70, x : x + 50] = np.array(warm) / (light.ambient + 0.1 if lit else 1)
            wall[y + 33 : y + 36, x : x + 50] = 0.5
    return np.asarray(wall * light.on_faces(np.ones((1, 3)), np.array([[0.0, 0.0, -1.0]]))[0], np.float32)


def _cuboid(
    canvas: Canvas,
    camera: SceneCamera,
    light: Light,
    box: tuple[tuple[float, float], tuple[float, float], tuple[float, float]],
    colour: _Colour,
) -> None:
    """A box from x1 to x2, y1 to y2, z1 to z2: its front, its top and the side that the camera sees."""
    (x1, x2), (y1, y2), (z1, z2) = box
    rng = np.random.default_rng(0)
    seen_side = x1 if camera.offset_m < x1 else x2
    faces = [
        ([(x1, y2, z2), (x2, y2, z2), (x2, y2, z1), (x1, y2, z1)], (0.0, 1.0, 0.0)),
        ([(seen_side, y2, z1), (seen_side, y2, z2), (seen_side, y1, z2), (seen_side, y1, z1)],
         (-1.0 if seen_side == x1 else 1.0, 0.0, 0.0)),
        ([(x1, y2, z1), (x2, y2, z1), (x2, y1, z1), (x1, y1, z1)], (0.0, 0.0, -1.0)),
    ]  # fmt: skip
    for corners, normal in faces:
        lit = light.on_faces(np.array([colour]), np.array([normal]))[0]
        texture = lit * (1 + 0.10 * _noise(rng, (48, 48), 6)[..., None])
        _lay(canvas, texture.astype(np.float32), camera, [*corners])


def _lamp_light(camera: SceneCamera, wh: tuple[int, int]) -> NDArray[np.float32]:
    """The pool of light below the lamp above the gate."""
    centre = camera.project(np.array([[0.0, 0.6, camera.stop_m + 0.5]]))[0] + _margin_px(wh[0])
    x, y = np.meshgrid(np.arange(wh[0]), np.arange(wh[1]))
    away = ((x - centre[0]) / 620) ** 2 + ((y - centre[1]) / np.where(y < centre[1], 330, 480)) ** 2
    return np.asarray((0.30 + 1.15 * np.exp(-away))[..., None], np.float32)
