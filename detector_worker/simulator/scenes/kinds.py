"""The kinds of scenes that a film may be ordered of, and what makes each what it is."""

from collections.abc import Callable
from typing import Final, Literal, get_args

from detector_worker.simulator.scenes.casting import Casting
from detector_worker.simulator.scenes.crowded import write_crowded
from detector_worker.simulator.scenes.geometry import STOP_DISTANCES_M
from detector_worker.simulator.scenes.light import LIGHTS, LightName
from detector_worker.simulator.scenes.mix import write_mix
from detector_worker.simulator.scenes.occlusion import write_occlusion
from detector_worker.simulator.scenes.parked import write_parked
from detector_worker.simulator.scenes.script import Script

__all__ = ["SCENE_KINDS", "SceneKind", "light_of", "stop_distances_m", "write_script"]

SceneKind = Literal["mix", "crowded", "parked", "occlusion", "night", "rain", "shake"]
"""What makes a scene difficult.

``mix`` is the standard: some of everything, in the light of the camera's number. ``crowded``: both lanes queue bumper
to bumper, and people walk between. ``parked``: one or two vehicles stand for nearly the whole film while others come
and go and the light changes. ``occlusion``: who stands is covered by trucks, vans and people. ``night`` and ``rain``:
the mix in that light. ``shake``: the mix before a camera on a bad mount.
"""
SCENE_KINDS: Final[tuple[SceneKind, ...]] = get_args(SceneKind)
_WRITERS: Final[dict[SceneKind, Callable[[Casting], Script]]] = {
    "crowded": write_crowded,
    "parked": write_parked,
    "occlusion": write_occlusion,
}
"""The others have the mix."""
_LIGHTS: Final[dict[SceneKind, LightName]] = {"night": "night", "rain": "rain"}
_STOP_DISTANCES_M: Final[dict[SceneKind, tuple[float, ...]]] = {
    "crowded": STOP_DISTANCES_M[:-1],
    "occlusion": STOP_DISTANCES_M[1:],
}


def write_script(kind: SceneKind, casting: Casting) -> Script:
    """Write what happens in a film."""
    return _WRITERS.get(kind, write_mix)(casting)


def light_of(kind: SceneKind, camera: int) -> LightName:
    """Return the light of a camera's film: by its number, where the kind does not say."""
    return _LIGHTS.get(kind, LIGHTS[(camera - 1) % len(LIGHTS)])


def stop_distances_m(kind: SceneKind) -> tuple[float, ...]:
    """Return how far from the camera the stop line may be.

    A queue that is bumper to bumper cannot be told from who stands at a gate that is far away, and near the camera
    who is held up after the gate would be out of sight.
    """
    return _STOP_DISTANCES_M.get(kind, STOP_DISTANCES_M)
