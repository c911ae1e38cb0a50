"""The demo's page: live cameras and the records as they come, for browsers of this machine alone."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

import aiohttp
import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from detector_worker.cli.demo.board import Board, CameraView, Event, RecordView, WorkerView
from detector_worker.simulator.listening import start_listening

__all__ = ["Page", "serving"]

_HOST: Final = "127.0.0.1"
_WORKER_TIMEOUT: Final = aiohttp.ClientTimeout(total=3)
_ALIVE_EVERY_S: Final = 15.0
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAMES: Final = {CameraView: "camera", RecordView: "record", WorkerView: "worker"}
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src 'self' blob:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Page:
    """The routes.

    Args:
        board: What is shown.
        worker_url: Where the worker's HTTP side is, ending in a slash; None while it is down.
        record_image: Returns the picture of a record's vehicle, None where there is none.
    """

    def __init__(
        self,
        board: Board,
        *,
        worker_url: Callable[[], str | None],
        record_image: Callable[[str], Awaitable[bytes | None]],
    ) -> None:
        self._board, self._worker_url, self._record_image = board, worker_url, record_image
        self._html = Path(__file__).with_name("page.html").read_text(encoding="utf-8")

    @asynccontextmanager
    async def app(self) -> AsyncIterator[web.Application]:
        """Give the application."""
        async with aiohttp.ClientSession(timeout=_WORKER_TIMEOUT) as self._worker:
            app = web.Application(middlewares=[_guard])
            app.router.add_get("/", self._index)
            app.router.add_get("/events", self._events)
            app.router.add_get("/image/{camera_id}", self._camera_image)
            app.router.add_get("/record/{record_id}/image", self._picture_of_record)
            yield app

    async def _index(self, _: web.Request) -> web.Response:
        return web.Response(text=self._html, content_type="text/html", headers=_HEADERS)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Tell everything there is, then each change, until the browser leaves or does not keep up."""
        response = web.StreamResponse(headers=_HEADERS | {"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with self._board.listen() as listener, suppress(ConnectionResetError):
            await response.write(b"".join(map(_message, self._board.snapshot())))
            while True:
                try:
                    async with asyncio.timeout(_ALIVE_EVERY_S):
                        event = await listener.get()
                except TimeoutError:
                    await response.write(b": still there\n\n")
                    continue
                if event is None:
                    break
                await response.write(_message(event))
        return response

    async def _camera_image(self, request: web.Request) -> web.Response:
        camera_id, base = request.match_info["camera_id"], self._worker_url()
        if camera_id not in self._board.cameras:
            return _error(404, "There is no such camera.")
        if base is None:
            return _error(503, "The worker is being started.")
        try:
            address = f"{base}camera/{quote(camera_id, safe='')}/image?annotated=true"
            async with self._worker.get(address) as answer:
                if answer.status != 200:
                    return _error(503, "There is no picture yet.")
                return web.Response(body=await answer.read(), content_type="image/jpeg", headers=_HEADERS)
        except (aiohttp.ClientError, TimeoutError):
            return _error(503, "The worker does not answer.")

    async def _picture_of_record(self, request: web.Request) -> web.Response:
        record_id = request.match_info["record_id"]
        picture = await self._record_image(record_id) if _UUID.fullmatch(record_id) else None
        if picture is None:
            return _error(404, "There is no such picture.")
        return web.Response(body=picture, content_type="image/jpeg", headers=_HEADERS)


@asynccontextmanager
async def serving(page: Page, *, port: int) -> AsyncIterator[str]:
    """Serve the page; gives its address.

    Raises:
        ServiceError: The port is busy.
    """
    async with page.app() as app:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        what, mend = "The page cannot be served", "Name a free port with --page-port, or none."
        port = await start_listening(runner, _HOST, port, what=what, mend=mend)
        try:
            yield f"http://{_HOST}:{port}/"
        finally:
            await runner.cleanup()


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse whoever came by another name, as a page from elsewhere does that has itself resolved to this machine."""
    if request.url.host not in {_HOST, "localhost"}:
        return _error(403, "Only by the address of this machine.")
    return await handler(request)


def _message(event: Event) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (_NAMES[type(event)].encode(), orjson.dumps(event))


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status, headers=_HEADERS)
