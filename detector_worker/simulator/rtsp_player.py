"""The media of one RTSP connection: the camera's film, or what a fault makes of it."""

import asyncio
import time
from collections.abc import Iterable
from itertools import count
from typing import Final

from detector_worker.simulator.faults import Damage, Fault
from detector_worker.simulator.outlet import Outlet
from detector_worker.simulator.rtp import CLOCK_HZ, RtpSender
from detector_worker.simulator.rtsp_camera import RtspCamera
from detector_worker.simulator.screen import Moment, SentPicture
from detector_worker.simulator.sdp import AUDIO_HZ, AUDIO_PAYLOAD_TYPE, payload_type

__all__ = ["Player", "play_silence"]

_FAULT_AFTER_PLAY_S: Final = 1.0
_JUMP_BACK_S: Final = 10.0
_JUMP_EVERY_S: Final = 3.0
_SOUND_S: Final = 0.02
"""Of one packet."""
_SILENCE: Final = b"\xff" * round(_SOUND_S * AUDIO_HZ)


class Player:
    """Sends a camera's film to one client, each picture when it is due. `play` belongs to the connection's task."""

    def __init__(self, camera: RtspCamera, channel: int, outlet: Outlet) -> None:
        self._camera, self._outlet = camera, outlet
        self._loop = asyncio.get_running_loop()
        self._sender = RtpSender(channel, payload_type=payload_type(camera.screen.clip))
        self._damage = Damage(camera.camera_id)
        self._played_s = self._loop.time()
        self._next_jump_s = 0.0
        self._key: Moment | None = None
        self._awaits_key = False

    async def play(self) -> None:
        """Send without end.

        Raises:
            OSError: The client does not read.
            EOFError: It has gone, or the camera has ended the stream.
        """
        while True:
            await self._play_clip()

    async def _play_clip(self) -> None:
        """Send from the last key frame on, until the camera shows another clip or the pace is lost."""
        clip, offset_s = self._camera.screen.clip, None
        for moment in self._camera.screen.moments(self._loop.time()):
            if offset_s is None:
                offset_s = self._loop.time() - moment.film_s
            await asyncio.sleep(max(0.0, offset_s + moment.film_s - self._loop.time()))
            if self._camera.screen.clip is not clip or not await self._show(moment):
                return

    async def _show(self, moment: Moment) -> bool:
        """Send one picture as the camera's fault wants it; False: it has taken too long to go on at this pace."""
        fault = self._camera.fault
        if fault in {Fault.HANG_CONNECT, Fault.HANG_PLAY}:
            self._awaits_key = True
            return True
        if fault is Fault.FREEZE and self._key is not None:
            self._awaits_key = True
            self._send(self._key.picture.payloads, moment, shown=self._key)
            return True
        if moment.picture.is_key:
            self._key, self._awaits_key = moment, False
        if self._awaits_key:
            return True
        if fault is Fault.DRIP:
            parts = self._packets(moment.picture.payloads, moment.timestamp, moment.film_s)
            await self._outlet.drip(parts, as_long_as=lambda: self._camera.fault is Fault.DRIP)
            return False
        if self._is_due():
            await self._interfere(fault, moment)
        self._send(self._damaged(fault, moment.picture.payloads), moment, shown=moment)
        return True

    def _is_due(self) -> bool:
        """True if a fault that strikes in mid-stream strikes now: at once, but a second after PLAY of new clients."""
        is_new = self._camera.fault_since_s <= self._played_s
        return not is_new or self._loop.time() >= self._played_s + _FAULT_AFTER_PLAY_S

    async def _interfere(self, fault: Fault | None, moment: Moment) -> None:
        match fault:
            case Fault.RESET:
                self._outlet.reset()
                raise EOFError
            case Fault.END:
                self._outlet.write((self._sender.farewell(due_s=moment.film_s, utc_s=time.time()),))
                await self._outlet.close()
                raise EOFError
            case Fault.BACKWARDS if self._loop.time() >= self._next_jump_s:
                self._next_jump_s = self._loop.time() + _JUMP_EVERY_S
                self._sender.set_back(_JUMP_BACK_S)

    def _damaged(self, fault: Fault | None, payloads: tuple[bytes, ...]) -> Iterable[bytes | None]:
        match fault:
            case Fault.CORRUPT:
                return self._damage.corrupt(payloads)
            case Fault.LOSS:
                return self._damage.lose(payloads)
            case _:
                return payloads

    def _send(self, payloads: Iterable[bytes | None], moment: Moment, *, shown: Moment) -> None:
        """Send a picture in the place of ``moment``."""
        timestamp = moment.timestamp if shown is moment else round(moment.film_s * CLOCK_HZ)
        self._outlet.write(self._packets(payloads, timestamp, moment.film_s))
        self._camera.screen.note_sent(SentPicture(time.time(), shown.film_s))

    def _packets(self, payloads: Iterable[bytes | None], timestamp: int, due_s: float) -> list[bytes]:
        return self._sender.packets(
            payloads, timestamp, due_s=due_s, utc_s=time.time(), clock_offset_s=self._camera.clock_ahead_s
        )


async def play_silence(channel: int, outlet: Outlet) -> None:
    """Send a sound track on which nothing is to be heard, without end; raises as `Player.play`."""
    loop = asyncio.get_running_loop()
    sender = RtpSender(channel, payload_type=AUDIO_PAYLOAD_TYPE, clock_hz=AUDIO_HZ)
    began_s = loop.time()
    for number in count():
        due_s = number * _SOUND_S
        await asyncio.sleep(max(0.0, began_s + due_s - loop.time()))
        outlet.write(sender.packets((_SILENCE,), number * len(_SILENCE), due_s=due_s, utc_s=time.time()))
