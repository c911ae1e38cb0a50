"""The HTTP side: a camera's newest picture, and how the worker is."""

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse

from detector_worker.communication.access import AccessPolicy
from detector_worker.communication.reports import StateReporter
from detector_worker.core.exceptions import MessageProcessingError, ServiceError, StreamError
from detector_worker.engine.engine import Engine

__all__ = ["http_router"]


def http_router(*, engine: Engine, access: AccessPolicy, reporter: StateReporter) -> APIRouter:
    """Make the routes; who may ask is decided as for the WebSocket."""

    def check(request: Request) -> None:
        refusal = access.refusal(request)
        if refusal is not None:
            raise HTTPException(refusal.status, refusal.reason, refusal.headers)

    router = APIRouter()

    @router.get("/health", summary="How the worker is; without a token the status alone")
    async def health(request: Request) -> JSONResponse:
        content: dict[str, Any] = reporter.health()
        if not access.knows(request):
            content = {"status": content["status"]}
        working = content["status"] in {"ok", "degraded"}
        return JSONResponse(content, 200 if working else 503, headers={"Cache-Control": "no-store"})

    # A camera's id may hold slashes.
    @router.get(
        "/camera/{camera_id:path}/image",
        summary="The newest frame of a camera; annotated: the newest analysed one with its tracks",
        dependencies=[Depends(check)],
        response_class=Response,
    )
    async def newest_image(camera_id: str, *, annotated: bool = False) -> Response:
        try:
            jpeg = await engine.newest_jpeg(camera_id, annotated=annotated)
        except MessageProcessingError as exc:
            raise HTTPException(404, str(exc)) from exc
        except (StreamError, ServiceError) as exc:
            raise HTTPException(503, str(exc), {"Retry-After": "1"}) from exc
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    return router
