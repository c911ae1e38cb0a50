"""What one camera shows: which clip since when, and what of it was sent. Pure but for the log: pass the time in."""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

from detector_worker.simulator.clip import Clip, Picture
from detector_worker.simulator.rtp import CLOCK_HZ

__all__ = ["Moment", "Screen", "SentPicture"]

_PICTURES_REMEMBERED: Final = 6000


@dataclass(frozen=True, slots=True)
class SentPicture:
    """Which moment of the film was sent when."""

    utc_s: float
    """Right after its last packet was written."""
    film_s: float
    """Seconds since the film's first beginning: each further round, and each other clip, counts on."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A picture and its place in all that a camera shows."""

    film_s: float
    """As `SentPicture.film_s`, in the order of decoding."""
    timestamp: int
    """When it is shown, 1/90000 s."""
    picture: Picture


class Screen:
    """A camera's film: it starts with the first viewer and runs on, round after round, whoever watches.

    Times ``now_s`` are those of one monotonic clock. Belongs to one event loop.
    """

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._began_s: float | None = None
        self._base_s = 0.0
        self._sent: deque[SentPicture] = deque(maxlen=_PICTURES_REMEMBERED)

    @property
    def clip(self) -> Clip:
        """What is shown now."""
        return self._clip

    @property
    def sent(self) -> tuple[SentPicture, ...]:
        """The newest 6000 pictures in the order of sending, to all viewers."""
        # Sorted, since the wall clock may have been set back.
        return tuple(sorted(self._sent, key=lambda picture: picture.utc_s))

    def note_sent(self, picture: SentPicture) -> None:
        """Remember a picture that has left."""
        self._sent.append(picture)

    def switch(self, clip: Clip, now_s: float) -> None:
        """Show another clip from its beginning; the seconds of the film count on.

        Raises:
            ValueError: It has another codec, which a running connection cannot take over.
        """
        if clip.codec is not self._clip.codec:
            raise ValueError(f"the camera sends {self._clip.codec}, the other clip is {clip.codec}")
        if self._began_s is not None:
            self._base_s += self._elapsed_s(now_s)
            self._began_s = now_s
        self._clip = clip

    def moments(self, now_s: float) -> Iterator[Moment]:
        """Yield all pictures from the last key frame on, without end, in the order of decoding."""
        turn, position_s = divmod(self._elapsed_s(now_s), self._clip.duration_s)
        return _looped(self._clip, self._base_s, int(turn), self._clip.key_at(position_s))

    def newest(self, now_s: float) -> tuple[float, float, float]:
        """Return which picture is to be seen: its second of the clip, its ``film_s``, and for how many seconds more."""
        turn, position_s = divmod(self._elapsed_s(now_s), self._clip.duration_s)
        times = [picture.send_s for picture in self._clip.pictures]
        index = max(0, bisect_right(times, position_s + 1e-6) - 1)
        end_s = times[index + 1] if index + 1 < len(times) else self._clip.duration_s
        return times[index], self._base_s + turn * self._clip.duration_s + times[index], max(0.0, end_s - position_s)

    def _elapsed_s(self, now_s: float) -> float:
        """Return for how long this clip has been shown; who asks first starts it."""
        self._began_s = now_s if self._began_s is None else self._began_s
        return now_s - self._began_s


def _looped(clip: Clip, base_s: float, first_turn: int, first: int) -> Iterator[Moment]:
    for turn in count(first_turn):
        shift_s = base_s + turn * clip.duration_s
        for picture in clip.pictures[first if turn == first_turn else 0 :]:
            yield Moment(shift_s + picture.send_s, round(shift_s * CLOCK_HZ) + picture.timestamp, picture)
