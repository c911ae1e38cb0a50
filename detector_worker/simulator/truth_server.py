"""A web server that tells what really happens before the simulated cameras."""

from collections.abc import Callable, Iterable
from typing import Final, Self
from urllib.parse import quote

import orjson
from aiohttp import web

from detector_worker.simulator.listening import start_listening
from detector_worker.simulator.scenes.truth import SceneTruth
from detector_worker.simulator.screen import SentPicture

__all__ = ["TruthServer"]

_SHUTDOWN_S: Final = 1.0


class TruthServer:
    """``GET /truth`` and ``GET /truth/{camera_id}``. Use as an async context manager.

    Args:
        truths: What is known from the start; `add` tells of further cameras.
        sent: Which moment of a camera's film was sent when, as `RtspServer.sent` knows it.
        host: Address to listen on.
        port: 0 for any free one.
    """

    def __init__(
        self,
        truths: Iterable[SceneTruth] = (),
        *,
        sent: Callable[[str], Iterable[SentPicture]],
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.port = port
        self._host, self._sent = host, sent
        self._truths = {truth.camera_id: truth.to_json() for truth in truths}
        application = web.Application()
        application.add_routes([web.get("/truth", self._list), web.get("/truth/{camera_id}", self._tell)])
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_S)

    async def __aenter__(self) -> Self:
        self.port = await start_listening(
            self._runner,
            self._host,
            self.port,
            what="The truth server cannot listen",
            mend="Name a free port with --truth-port, or none: then one is found.",
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def urls(self) -> dict[str, str]:
        """Address of each camera's truth by the camera's id."""
        return {camera_id: self._url(camera_id) for camera_id in self._truths}

    def add(self, truth: SceneTruth) -> str:
        """Tell of one camera more, and return the address of its truth."""
        self._truths[truth.camera_id] = truth.to_json()
        return self._url(truth.camera_id)

    def _url(self, camera_id: str) -> str:
        return f"http://{self._host}:{self.port}/truth/{quote(camera_id, safe='')}"

    async def _list(self, _: web.Request) -> web.Response:
        return _json([{"camera_id": camera_id, "truth_url": url} for camera_id, url in self.urls.items()])

    async def _tell(self, request: web.Request) -> web.Response:
        camera_id = request.match_info["camera_id"]
        truth = self._truths.get(camera_id)
        if truth is None:
            return _json({"error": f"There is no camera {camera_id}; GET /truth lists them."}, status=404)
        sent = [(picture.utc_s, picture.film_s) for picture in self._sent(camera_id)]
        return _json({"truth": orjson.Fragment(truth), "sent": sent})


def _json(content: object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(content), status=status, content_type="application/json")
