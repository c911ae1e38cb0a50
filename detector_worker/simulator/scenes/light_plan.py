"""Which light a film is shown in at which moment: one for all of it, or a day that passes in minutes."""

import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from detector_worker.simulator.scenes.light import Light, LightName

__all__ = ["LightPlan"]

_DAY, _CLOUD, _DUSK, _DARK, _NIGHT = range(5)
_CLOUDS_S: Final = (3.0, 25.0)
"""How long the sun shines, or a cloud hides it."""
_CLOUD_MOVES_S: Final = (0.6, 4.0)
_LAMP_FAILS_S: Final = (0.4, 3.0)


@dataclass(frozen=True, slots=True)
class LightPlan:
    """Moments and their lights; between two moments one light turns into the other."""

    lights: tuple[Light, ...]
    moments: tuple[tuple[float, int], ...]
    """Film second and the number of the light; the first is at 0, and two at one second are a sudden change."""

    @classmethod
    def constant(cls, light: Light) -> "LightPlan":
        """Plan nothing but one light."""
        return cls((light,), ((0.0, 0),))

    @classmethod
    def passing_day(cls, rng: random.Random, duration_s: float) -> "LightPlan":
        """Plan sun and clouds, dusk, darkness, lamps that go on, fail and go off, and another day."""
        day, dusk, night = (Light.make(name, rng) for name in ("day", "dusk", "night"))
        cloud = replace(day, sun_colour=day.sun_colour * 0.12, ambient=day.ambient * 0.72, shadow=day.shadow * 0.35)
        dark = replace(
            night, sun_colour=night.sun_colour * 0.15, ambient=night.ambient * 1.3, shadow=0.1, has_lamp=False
        )
        lights = tuple(replace(one, shake_px=day.shake_px) for one in (day, cloud, dusk, dark, night))
        return cls(lights, tuple(_passing_day(rng, duration_s)))

    def at(self, film_s: float) -> tuple[int, int, float]:
        """Return the numbers of the light that is and of the one that comes, and how far the change is, 0 to 1."""
        place = max(0, bisect_right(self.moments, film_s, key=lambda one: one[0]) - 1)
        since_s, light = self.moments[place]
        if place + 1 == len(self.moments) or self.moments[place + 1][1] == light:
            return light, light, 0.0
        until_s, other = self.moments[place + 1]
        return light, other, (film_s - since_s) / (until_s - since_s)

    def name_at(self, film_s: float) -> LightName:
        """Return the light that there is more of."""
        light, other, share = self.at(film_s)
        return self.lights[light if share < 0.5 else other].name


def _passing_day(rng: random.Random, duration_s: float) -> Iterator[tuple[float, int]]:
    """All of it within the film, whatever its length."""
    evening, dark, morning, day = (
        duration_s * share
        for share in (
            rng.uniform(0.22, 0.30),
            rng.uniform(0.40, 0.46),
            rng.uniform(0.68, 0.74),
            rng.uniform(0.80, 0.86),
        )
    )
    yield from _clouds(rng, 0.0, evening)
    yield evening + (dark - evening) * 0.5, _DUSK
    yield dark, _DARK
    yield dark, _NIGHT
    now_s = dark + rng.uniform(0.1, 0.3) * (morning - dark)
    while now_s < morning - _LAMP_FAILS_S[1]:  # the lamp fails for a moment, and comes back
        fails_s = rng.uniform(*_LAMP_FAILS_S)
        yield from ((now_s, _NIGHT), (now_s, _DARK), (now_s + fails_s, _DARK), (now_s + fails_s, _NIGHT))
        now_s += fails_s + rng.uniform(0.2, 0.5) * (morning - dark)
    yield from ((morning, _NIGHT), (morning, _DARK))
    yield morning + (day - morning) * 0.4, _DUSK
    yield from _clouds(rng, day, duration_s)


def _clouds(rng: random.Random, from_s: float, to_s: float) -> Iterator[tuple[float, int]]:
    """Sun and clouds by turns, sun and cloud at least once."""
    yield from_s, _DAY
    shortest_s, longest_s = _CLOUDS_S[0], min(_CLOUDS_S[1], max(_CLOUDS_S[0], (to_s - from_s) / 3))
    now_s, light, other = from_s + rng.uniform(shortest_s, longest_s), _DAY, _CLOUD
    while now_s + _CLOUD_MOVES_S[1] < to_s:
        yield now_s, light
        now_s += rng.uniform(*_CLOUD_MOVES_S)
        yield now_s, other
        now_s += rng.uniform(shortest_s, longest_s)
        light, other = other, light
    yield to_s, light
