"""What the truth benchmark shows: scenes by their names, each a few cameras of one kind of difficulty."""

from dataclasses import dataclass
from typing import Final, Literal

from detector_worker.simulator.film import FilmOrder
from detector_worker.simulator.scenes.kinds import SceneKind

__all__ = ["SCENES", "Breakage", "Scene", "Watch"]

_SEEDS_APART: Final = 1000
"""Between the scenes of one run, and a thousand times that between runs: no two have a film in common."""

Breakage = Literal["outages", "restarts"]


@dataclass(frozen=True, slots=True)
class Watch:
    """For how long a lane watches, seconds of the film; then it is gone, with its group."""

    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class Scene:
    """One line of the result."""

    name: str
    kind: SceneKind
    cameras: int
    vehicles_each: int
    fps: float = 5.0
    shortest_stop_s: float = 4.0
    longest_stop_s: float = 60.0
    watched: tuple[Watch, ...] = (Watch(0.0, float("inf")),)
    """At lane level. What lies between two of them nobody has seen; the next one knows the visits of the last."""
    breaks: Breakage | None = None
    """Live over RTSP, with a worker of its own, while this happens to it; None: at lane level, from the file."""

    def orders(self, seed: int) -> tuple[FilmOrder, ...]:
        """Return the films of a run."""
        number = [scene.name for scene in SCENES].index(self.name)
        return tuple(
            FilmOrder(
                seed=seed * _SEEDS_APART * _SEEDS_APART + number * _SEEDS_APART,
                camera=camera,
                vehicles=self.vehicles_each,
                fps=self.fps,
                shortest_stop_s=self.shortest_stop_s,
                longest_stop_s=self.longest_stop_s,
                scene=self.kind,
            )
            for camera in range(1, self.cameras + 1)
        )


SCENES: Final = (
    Scene("standard mix", "mix", cameras=10, vehicles_each=12),
    Scene("crowded gate", "crowded", cameras=4, vehicles_each=20),
    # Ten minutes of outage, and a restart of the group, in the middle of half an hour.
    Scene(
        "parked all day",
        "parked",
        cameras=3,
        vehicles_each=16,
        longest_stop_s=1800.0,
        watched=(Watch(0.0, 700.0), Watch(1300.0, float("inf"))),
    ),
    Scene("occlusion", "occlusion", cameras=4, vehicles_each=10),
    Scene("night", "night", cameras=3, vehicles_each=12),
    Scene("rain", "rain", cameras=3, vehicles_each=12),
    Scene("shake", "shake", cameras=3, vehicles_each=12),
    Scene("outages", "mix", cameras=4, vehicles_each=6, fps=10.0, shortest_stop_s=16.0, breaks="outages"),
    Scene("restarts", "mix", cameras=4, vehicles_each=6, fps=10.0, shortest_stop_s=16.0, breaks="restarts"),
)
