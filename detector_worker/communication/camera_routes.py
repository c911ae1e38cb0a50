"""The HTTP side of a site's cameras: what is watched, and a list of more."""

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from detector_worker.communication.access import AccessPolicy
from detector_worker.communication.camera_lists import CameraLists
from detector_worker.communication.http_routes import access_check
from detector_worker.core.addresses import Address
from detector_worker.core.camera_list import MAX_LIST_BYTES
from detector_worker.core.exceptions import ServiceError
from detector_worker.core.singleton_managers import StreamStateManager
from detector_worker.engine.site_cameras import SiteCamera, SiteCameras

__all__ = ["camera_router"]

_BODY_S: Final = 30.0
_SCHEMES: Final = frozenset({"rtsp", "rtsps", "http", "https", "file"})


def camera_router(
    *, lists: CameraLists, site: SiteCameras, streams: StreamStateManager, access: AccessPolicy
) -> APIRouter:
    """Make the routes; who may ask is decided as for the WebSocket."""
    router = APIRouter(dependencies=[Depends(access_check(access))])

    @router.get("/cameras", summary="The site's cameras, and how they are")
    async def cameras() -> JSONResponse:
        found = [_camera(camera_id, camera, streams) for camera_id, camera in site.cameras().items()]
        return JSONResponse({"cameras": found}, headers={"Cache-Control": "no-store"})

    @router.post("/cameras/import", summary="Watch the cameras of a list; replace: and no others")
    async def import_cameras(request: Request, *, replace: bool = False) -> JSONResponse:
        content = await _body(request)
        try:
            answer = await lists.import_list(content, replace=replace)
        except ServiceError as exc:
            raise HTTPException(503, str(exc)) from exc
        if answer.problems:
            errors = [{"path": one.path, "line": one.line, "message": str(one)} for one in answer.problems]
            return JSONResponse({"detail": "The list cannot be used; nothing was changed.", "errors": errors}, 400)
        outcomes = [
            {"camera": one.camera_id, "status": one.status} | ({"error": one.error} if one.error else {})
            for one in answer.outcomes
        ]
        return JSONResponse({"cameras": outcomes}, headers={"Cache-Control": "no-store"})

    return router


async def _body(request: Request) -> bytes:
    """Take the whole body, bounded in size and time."""
    too_large = HTTPException(413, f"A list has at most {MAX_LIST_BYTES} bytes.")
    if int(request.headers.get("content-length", 0)) > MAX_LIST_BYTES:
        raise too_large  # before a client that waits for permission sends it
    content = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for part in request.stream():
                content += part
                if len(content) > MAX_LIST_BYTES:
                    raise too_large
    except ClientDisconnect:
        raise HTTPException(400, "The list broke off.") from None
    except TimeoutError:
        raise HTTPException(408, f"The list did not come within {_BODY_S:.0f} s.") from None
    return bytes(content)


def _camera(camera_id: str, camera: SiteCamera, streams: StreamStateManager) -> dict[str, Any]:
    spec, status = camera.spec, streams.get(camera_id)
    working = camera.tried and camera.error is None
    archive = spec.model_url
    return {
        "camera": camera_id,
        "subscriptionIdentifier": spec.subscription_id,
        "url": str(Address.parse(spec.url, _SCHEMES)),
        "archive": str(Address.parse(archive, _SCHEMES)) if "://" in archive else archive,
        "state": _state(camera, status.state if status else None),
        "error": camera.error or (status.reason if status and working else None),
        "retryInSeconds": None if camera.retry_in_s is None else round(camera.retry_in_s, 1),
    }


def _state(camera: SiteCamera, stream: str | None) -> str:
    """Return ``refused``, ``starting``, or the state of the camera's stream."""
    if camera.error is not None:
        return "refused"
    return stream if camera.tried and stream is not None else "starting"
