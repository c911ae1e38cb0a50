"""One client of the RTSP server: its requests and their answers."""

import asyncio
import re
import secrets
from collections.abc import Coroutine, Mapping
from typing import Final

from detector_worker.simulator.credentials import Credentials
from detector_worker.simulator.faults import Fault
from detector_worker.simulator.outlet import Outlet
from detector_worker.simulator.rtsp_camera import RtspCamera
from detector_worker.simulator.rtsp_messages import Request, read_request, response
from detector_worker.simulator.rtsp_player import Player, play_silence
from detector_worker.simulator.sdp import sdp_of_audio, sdp_of_clip

__all__ = ["RtspConnection"]

_SESSION_TIMEOUT_S: Final = 60
_METHODS: Final = "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, SET_PARAMETER, TEARDOWN"
_NOBODY: Final = Credentials("", "")
_Answer = tuple[int, dict[str, str], str]
"""Status, headers, body."""


class RtspConnection:
    """Answers one client and, from PLAY on, sends it the camera's film. `serve` owns the task that sends."""

    def __init__(
        self, cameras: Mapping[str, RtspCamera], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.camera: RtspCamera | None = None
        self._cameras, self._reader, self._outlet = cameras, reader, Outlet(writer)
        self._session = secrets.token_hex(8)
        self._channel: int | None = None
        self._is_playing = self._hears_only = False

    async def serve(self) -> None:
        """Answer until the client leaves, misbehaves, or is reset."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    request = await read_request(self._reader)
                    camera = self.camera = self._cameras.get(request.path, self.camera)
                    if camera is not None and camera.fault is Fault.REFUSE:
                        self.reset()
                        raise EOFError
                    if camera is not None and camera.fault is Fault.HANG_CONNECT:
                        continue
                    status, headers, body = self._answer(request, camera)
                    self._outlet.write((response(request, status, headers, body),))
                    if request.method == "TEARDOWN":
                        raise EOFError
                    if request.method == "PLAY" and status == 200 and camera is not None and not self._is_playing:
                        self._is_playing = True
                        tasks.create_task(self._media(camera))
        except* (EOFError, ValueError, OSError):
            pass  # the client's end of the connection; nobody else is concerned
        finally:
            self._outlet.abort()

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        self._outlet.reset()

    def _media(self, camera: RtspCamera) -> Coroutine[None, None, None]:
        channel = self._channel or 0
        return play_silence(channel, self._outlet) if self._hears_only else Player(camera, channel, self._outlet).play()

    def _answer(self, request: Request, camera: RtspCamera | None) -> _Answer:
        if camera is not None:
            if camera.fault is Fault.NOT_FOUND:
                return 404, {}, ""
            if camera.fault is Fault.UNAUTHORIZED:
                return 401, (camera.credentials or _NOBODY).challenge, ""
            given = request.headers.get("authorization", "")
            if camera.credentials and not camera.credentials.accepts(request.method, request.url, given):
                return 401, camera.credentials.challenge, ""
        return self._obey(request, camera)

    def _obey(self, request: Request, camera: RtspCamera | None) -> _Answer:
        status, headers, body = 200, {"Session": self._session}, ""
        match request.method:
            case "OPTIONS":
                headers = {"Public": _METHODS}
            case "DESCRIBE" if camera is not None:
                headers = {"Content-Base": request.url.rstrip("/") + "/", "Content-Type": "application/sdp"}
                self._hears_only = camera.fault is Fault.AUDIO_ONLY
                body = sdp_of_audio(request.path) if self._hears_only else sdp_of_clip(request.path, camera.screen.clip)
            case _ if camera is None:
                status = 404
            case "SETUP":
                status, headers = self._set_up(request.headers.get("transport", ""))
            case "PLAY" if self._channel is None:
                status = 454
            case "PLAY" | "GET_PARAMETER" | "SET_PARAMETER" | "TEARDOWN":
                pass
            case _:
                status = 501
        return status, headers, body

    def _set_up(self, wanted: str) -> tuple[int, dict[str, str]]:
        """Accept RTP inside this connection, nothing else."""
        if "TCP" not in wanted.upper():
            return 461, {}
        asked = re.search(r"interleaved=(\d{1,3})", wanted)
        self._channel = int(asked[1]) & 0xFE if asked else 0
        transport = f"RTP/AVP/TCP;unicast;interleaved={self._channel}-{self._channel + 1}"
        return 200, {"Transport": transport, "Session": f"{self._session};timeout={_SESSION_TIMEOUT_S}"}
