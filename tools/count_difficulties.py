"""Counts which difficulties the vehicles of a kind of scene have, as the truth of ten cameras' films tells it."""

import argparse
import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

from detector_worker.cli.films import film_cache, make_films, show_progress
from detector_worker.simulator.film import FilmOrder
from detector_worker.simulator.scenes.kinds import SCENE_KINDS, SceneKind
from detector_worker.simulator.scenes.light import LIGHTS
from detector_worker.simulator.scenes.truth import VehicleTruth

LEAST: Final[dict[str, float]] = {
    "arrives in a pair": 0.15,
    "more than 40 % hidden": 0.10,
    "like the one before it": 0.10,
    "at night": 0.20,
    "in rain": 0.10,
    "parked for the longest stop": 0.10,
}
"""The least share of all vehicles in the standard mix."""
_HAS: Final[dict[str, Callable[[VehicleTruth], bool]]] = {
    "arrives in a pair": lambda one: one.in_pair,
    "more than 40 % hidden": lambda one: one.occluded,
    "hidden for 2 s while it stands": lambda one: one.hidden_s >= 2,
    "like the one before it": lambda one: one.lookalike,
    "at night": lambda one: one.at_night,
    "in rain": lambda one: one.in_rain,
    "parked for the longest stop": lambda one: one.parked,
}


def main() -> int:
    """Print the shares; 0, or 1 where one of the mix is too small."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vehicles", type=int, default=12, help="of each camera, default 12")
    parser.add_argument("--scene", choices=SCENE_KINDS, default="mix")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    vehicles = asyncio.run(_vehicles(arguments.seed, arguments.vehicles, arguments.scene))
    shares = {name: round(sum(map(has, vehicles)) / len(vehicles), 3) for name, has in _HAS.items()}
    heights = sorted(one.plate_px for one in vehicles)
    told = {
        "vehicles": len(vehicles),
        "shares": shares,
        "plate_px": {"least": heights[0], "median": heights[len(heights) // 2], "most": heights[-1]},
        "shortest_gap_s": min(one.gap_s for one in vehicles),
        "mean_gap_s": round(sum(one.gap_s for one in vehicles) / len(vehicles), 2),
        "gaps_up_to_1.5_s": sum(one.gap_s <= 1.5 for one in vehicles),
    }
    print(json.dumps(told) if arguments.json else "\n".join(f"{name}: {value}" for name, value in told.items()))  # noqa: T201 - the script's answer
    return int(arguments.scene == "mix" and any(shares[name] < least for name, least in LEAST.items()))


async def _vehicles(seed: int, each: int, scene: SceneKind) -> list[VehicleTruth]:
    orders = [FilmOrder(seed, camera, each, scene=scene) for camera in range(1, len(LIGHTS) + 1)]
    with show_progress(orders, quiet=False) as progress:
        async with aclosing(make_films(orders, cache=film_cache(), progress=progress)) as films:
            return [vehicle async for film in films for vehicle in film.truth.vehicles]


if __name__ == "__main__":
    raise SystemExit(main())
