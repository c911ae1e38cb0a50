"""What simulated cameras do wrong when told to."""

import random
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final

__all__ = ["Damage", "Fault", "SnapshotFault"]

_SHARE: Final = 0.005
"""Of packets that are hit."""
_WRONG_BYTES: Final = 16


class Fault(StrEnum):
    """What an RTSP camera does wrong. Where nothing else is said, running connections suffer from it too."""

    REFUSE = "refuse"
    """It resets its connections, and each new one at its first request."""
    HANG_CONNECT = "hang-connect"
    """It accepts connections and never answers; running ones fall silent."""
    HANG_PLAY = "hang-play"
    """It answers, but sends no media."""
    DRIP = "drip"
    """After PLAY, one byte in half a second."""
    RESET = "reset"
    """A TCP reset in mid-stream: now, and one second after PLAY of new connections."""
    END = "end"
    """The stream ends in order, with RTCP's BYE: now, and one second after PLAY of new connections."""
    UNAUTHORIZED = "unauthorized"
    """401 to every request, whatever password it brings. Who is watching goes on."""
    NOT_FOUND = "not-found"
    """404 to every request. Who is watching goes on."""
    AUDIO_ONLY = "audio-only"
    """New connections are offered a sound track, silent, and no picture. Who is watching goes on."""
    CORRUPT = "corrupt"
    """16 wrong bytes in one of 200 RTP packets."""
    LOSS = "loss"
    """One of 200 RTP packets is missing; the numbers tell so."""
    FREEZE = "freeze"
    """The newest key frame over and over, as if time went on."""
    BACKWARDS = "backwards"
    """RTP time jumps back by 10 s, again and again; the pictures go on."""
    CLOCK_JUMP = "clock-jump"
    """The wall clock in the sender reports goes an hour fast from now on."""


class SnapshotFault(StrEnum):
    """What a camera does wrong that is asked for pictures over HTTP."""

    REFUSE = "refuse"
    """It resets its connections, and each new one at its first request."""
    HANG = "hang"
    """It does not answer; streams fall silent."""
    UNAUTHORIZED = "unauthorized"
    """401, whatever password a request brings."""
    NOT_FOUND = "not-found"
    SERVER_ERROR = "server-error"
    REDIRECT = "redirect"
    TRUNCATED = "truncated"
    """The first half of a picture, said to be all of it."""
    HUGE_PICTURE = "huge-picture"
    """A picture that claims 10,000 x 10,000 pixels."""
    ENDLESS = "endless"
    """A picture that never ends."""
    DRIP = "drip"
    """One byte in half a second."""


class Damage:
    """Hits some of the packets it sees; which ones and how follows from the seed alone."""

    def __init__(self, seed: str) -> None:
        self._chance = random.Random(seed)

    def corrupt(self, payloads: Sequence[bytes]) -> Iterator[bytes]:
        """Yield all payloads, some with wrong bytes in a place of their own."""
        for payload in payloads:
            yield self._overwritten(payload) if self._chance.random() < _SHARE else payload

    def lose(self, payloads: Sequence[bytes]) -> Iterator[bytes | None]:
        """Yield payloads, None for a lost one."""
        for payload in payloads:
            yield None if self._chance.random() < _SHARE else payload

    def _overwritten(self, payload: bytes) -> bytes:
        wrong = self._chance.randbytes(min(_WRONG_BYTES, len(payload)))
        at = self._chance.randint(0, len(payload) - len(wrong))
        return payload[:at] + wrong + payload[at + len(wrong) :]
