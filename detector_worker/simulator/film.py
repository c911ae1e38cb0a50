"""Films of scenes: rendered and encoded once, kept by what was ordered."""

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Final

import av
import numpy as np
from numpy.typing import NDArray

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.simulator.scenes.casting import Casting
from detector_worker.simulator.scenes.geometry import PICTURE_WH, SceneCamera
from detector_worker.simulator.scenes.kinds import SceneKind, light_of, stop_distances_m, write_script
from detector_worker.simulator.scenes.light import Light
from detector_worker.simulator.scenes.light_plan import LightPlan
from detector_worker.simulator.scenes.mast import Mast
from detector_worker.simulator.scenes.record import Recorder, ignore_masks
from detector_worker.simulator.scenes.script import Script
from detector_worker.simulator.scenes.stage import Person, Stage, Vehicle
from detector_worker.simulator.scenes.truth import SceneTruth

__all__ = ["Film", "FilmOrder", "make_film"]

_KEY_FRAME_EVERY_S: Final = 2.0
_FILMS_KEPT: Final = 256
_STEPS_A_SECOND: Final = 1.9
_ENCODING: Final = {
    "preset": "ultrafast",
    "tune": "zerolatency",
    "crf": "26",
    "maxrate": "3M",
    "bufsize": "3M",
    "threads": "1",
}
"""About what cameras are set to, so that compression shows at night and in rain."""


@dataclass(frozen=True, slots=True)
class FilmOrder:
    """What is wanted of one camera's film; the same order gives the same film, picture by picture."""

    seed: int
    camera: int
    """1 for ``cam-1``; decides geometry and light too."""
    vehicles: int
    fps: float = 10.0
    shortest_stop_s: float = 4.0
    longest_stop_s: float = 60.0
    """How long those that park stand."""
    scene: SceneKind = "mix"


@dataclass(frozen=True, slots=True)
class Film:
    """A finished film."""

    path: Path
    """H.264 in MP4, a key frame at least every two seconds, no reordering."""
    truth: SceneTruth


def make_film(order: FilmOrder, *, cache: Path, progress: Callable[[float], None] = lambda _: None) -> Film:
    """Return the film of an order, from the cache where it is kept; blocks, about 10 ms of CPU a picture.

    Safe to call from several processes at once. ``progress`` is told the share that is done, 0 to 1.

    Raises:
        ConfigurationError: The cache folder cannot be written.
    """
    path = cache / f"{hashlib.sha256(repr((_renderer_version(), astuple(order))).encode()).hexdigest()[:24]}.mp4"
    truth_path = path.with_suffix(".json")
    if path.exists() and truth_path.exists():
        with suppress(OSError):
            os.utime(path)
        return Film(path, SceneTruth.load(truth_path))
    unfinished = path.with_suffix(f".{os.getpid()}.mp4")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        truth = _render(order, unfinished, progress)
        truth_path.with_suffix(f".{os.getpid()}").write_bytes(truth.to_json())
        truth_path.with_suffix(f".{os.getpid()}").replace(truth_path)
        unfinished.replace(path)
        _prune(cache)
    except OSError as exc:  # FFmpeg's errors are OSErrors too
        raise ConfigurationError(
            f"The film cannot be kept: {exc.strerror or exc}", where=str(cache), mend="Make the folder writable."
        ) from exc
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return Film(path, truth)


def _render(order: FilmOrder, path: Path, progress: Callable[[float], None]) -> SceneTruth:
    rng = random.Random(f"film {'' if order.scene == 'mix' else order.scene + ' '}{order.seed} {order.camera}")
    # Dealt out, not drawn: any five cameras in a row show small plates and large ones.
    distances = stop_distances_m(order.scene)
    camera = SceneCamera.random(rng, stop_m=distances[(order.seed + order.camera) % len(distances)])
    light = Light.make(light_of(order.scene, order.camera), rng)
    casting = Casting(camera, rng, order.vehicles, order.shortest_stop_s, order.longest_stop_s)
    script = write_script(order.scene, casting)
    seed = rng.getrandbits(32)
    is_parked = order.scene == "parked"
    lights = LightPlan.passing_day(rng, script.duration_s) if is_parked else LightPlan.constant(light)
    mast = Mast(seed) if order.scene == "shake" else None
    stages = [Stage(camera, one, seed=seed, mast=mast, light_changes=is_parked) for one in lights.lights]
    recorder = Recorder(f"cam-{order.camera}", script, lights)
    shots = _Shots(script, lights, stages, order.fps)
    _encode(path, order.fps, _pictures(shots, recorder, progress))
    return SceneTruth(
        camera_id=f"cam-{order.camera}",
        seed=order.seed,
        light="changing" if is_parked else light.name,
        fps=order.fps,
        duration_s=round(script.duration_s * order.fps) / order.fps,
        wh=PICTURE_WH,
        ignore_masks=ignore_masks(camera, queue_gap_m=script.queue_gap_m),
        vehicles=recorder.vehicles(longest_stop_s=order.longest_stop_s),
        scene=order.scene,
    )


@dataclass(frozen=True, slots=True)
class _Shots:
    script: Script
    lights: LightPlan
    stages: Sequence[Stage]
    """For each of the lights."""
    fps: float


def _pictures(shots: _Shots, recorder: Recorder, progress: Callable[[float], None]) -> Iterator[NDArray[np.uint8]]:
    arrivals, count = shots.script.arrivals, round(shots.script.duration_s * shots.fps)
    for number in range(count):
        film_s = number / shots.fps
        present = [(index, one, z) for index, one in enumerate(arrivals) if (z := one.z_at(film_s)) is not None]
        vehicles = [Vehicle(one.look, one.x, z, one.is_lit_at(film_s)) for _, one, z in present]
        people = [
            Person(one.walker, *place, one.walked_s(film_s) * _STEPS_A_SECOND, one.to_left)
            for one in shots.script.crossings
            if (place := one.place_at(film_s)) is not None
        ]
        light, other, share = shots.lights.at(film_s)
        turning = (shots.stages[other], share) if share else None
        picture, seen = shots.stages[light].picture(vehicles, people, number, film_s=film_s, turning=turning)
        recorder.note(film_s, [index for index, _, _ in present], seen)
        if number % 10 == 0:
            progress(number / count)
        yield picture
    progress(1.0)


def _encode(path: Path, fps: float, pictures: Iterator[NDArray[np.uint8]]) -> None:
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=_ENCODING)
        stream.width, stream.height = PICTURE_WH
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = round(fps * _KEY_FRAME_EVERY_S)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode(None))


@cache
def _renderer_version() -> str:
    """Tell one state of the renderer from another: films of an older one are not the same order's."""
    sources = [Path(__file__), *sorted(Path(__file__).with_name("scenes").iterdir())]
    return hashlib.sha256(b"".join(one.read_bytes() for one in sources if one.is_file())).hexdigest()


def _prune(cache: Path) -> None:
    """Let go of the films that were not asked for longest."""
    films = sorted(cache.glob("*.mp4"), key=lambda one: one.stat().st_mtime)
    for old in films[:-_FILMS_KEPT]:
        old.unlink(missing_ok=True)
        old.with_suffix(".json").unlink(missing_ok=True)
