"""One camera of the snapshot server: what it shows, what is wrong with it, and who is connected."""

import asyncio
import time
from collections import deque
from typing import Final

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.credentials import Credentials
from detector_worker.simulator.faults import SnapshotFault
from detector_worker.simulator.outlet import reset
from detector_worker.simulator.screen import Screen, SentPicture
from detector_worker.simulator.still_pictures import FilmStills, ImageKind, OneStill, Still, Stills

__all__ = ["SnapshotCamera"]

_PICTURES_REMEMBERED: Final = 6000
_UNMOVED_S: Final = 1.0
"""Between two pictures of a stream that always shows the same."""


class SnapshotCamera:
    """Belongs to the event loop, but for `still_at` and `close`, which belong to the decoding thread.

    Args:
        shown: A film, a film that other servers show too, or a single JPEG or PNG picture.
    """

    def __init__(self, shown: Clip | Screen | bytes) -> None:
        self.fault: SnapshotFault | None = None
        self.redirect_to = ""
        self.credentials: Credentials | None = None
        self.connections_made = 0
        self._transports: set[asyncio.Transport] = set()
        self._sent: deque[SentPicture] = deque(maxlen=_PICTURES_REMEMBERED)
        self._screen: Screen | None = None
        if isinstance(shown, bytes):
            self._stills: Stills = OneStill(shown)
        else:
            self._screen = Screen(shown) if isinstance(shown, Clip) else shown
            self._stills = FilmStills(self._screen.clip)
        self._stills_of = self.clip

    @property
    def clip(self) -> Clip | None:
        """What is shown now; None: a single picture."""
        return None if self._screen is None else self._screen.clip

    @property
    def sent(self) -> tuple[SentPicture, ...]:
        """The newest 6000 pictures, as `Screen.sent`."""
        return tuple(self._sent) if self._screen is None else self._screen.sent

    @property
    def connected(self) -> int:
        """How many connections have asked for it and are open."""
        self._transports = {one for one in self._transports if not one.is_closing()}
        return len(self._transports)

    def note_request(self, transport: asyncio.Transport) -> None:
        """Count a connection that asks for this camera, once."""
        if transport not in self._transports:
            self.connections_made += 1
            self._transports.add(transport)

    def reset_connections(self) -> None:
        """End every connection the hard way."""
        for transport in self._transports:
            reset(transport)

    def note_sent(self, film_s: float) -> None:
        """Remember that a picture has left just now."""
        picture = SentPicture(time.time(), film_s)
        if self._screen is None:
            self._sent.append(picture)
        else:
            self._screen.note_sent(picture)

    def newest(self, now_s: float) -> tuple[float, float, float]:
        """As `Screen.newest`."""
        return (0.0, 0.0, _UNMOVED_S) if self._screen is None else self._screen.newest(now_s)

    def still_at(self, clip: Clip | None, clip_s: float, kind: ImageKind) -> Still:
        """Return the picture at a second of the clip that is shown; takes its time."""
        if clip is not None and clip is not self._stills_of:
            self._stills.close()
            self._stills, self._stills_of = FilmStills(clip), clip
        return self._stills.at(clip_s, kind)

    def close(self) -> None:
        """Let go of the film."""
        self._stills.close()
