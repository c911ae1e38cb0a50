"""The HTTP side: a camera's newest picture, its reconnection, and how the worker is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse

from detector_worker.communication.access import AccessPolicy
from detector_worker.communication.metrics import METRICS_TYPE, Metrics
from detector_worker.communication.reports import StateReporter
from detector_worker.core.exceptions import MessageProcessingError, ServiceError, StreamError
from detector_worker.engine.engine import Engine

__all__ = ["NO_STORE", "access_check", "http_router", "told_as_status"]

NO_STORE: Final = {"Cache-Control": "no-store"}


def access_check(access: AccessPolicy) -> Callable[[Request], None]:
    """Make a route's dependency: who may ask is decided as for the WebSocket."""

    def check(request: Request) -> None:
        refusal = access.refusal(request)
        if refusal is not None:
            raise HTTPException(refusal.status, refusal.reason, refusal.headers)

    return check


def http_router(*, engine: Engine, access: AccessPolicy, reporter: StateReporter, metrics: Metrics) -> APIRouter:
    """Make the routes."""
    router, for_clients = APIRouter(), [Depends(access_check(access))]

    @router.get("/health", summary="How the worker is; without a token the status alone")
    async def health(request: Request) -> JSONResponse:
        content: dict[str, Any] = reporter.health()
        if not access.knows(request):
            content = {"status": content["status"]}
        working = content["status"] in {"ok", "degraded"}
        return JSONResponse(content, 200 if working else 503, headers=NO_STORE)

    # A camera's id may hold slashes.
    @router.get(
        "/camera/{camera_id:path}/image",
        summary="The newest frame of a camera; annotated: the newest analysed one with its tracks",
        dependencies=for_clients,
        response_class=Response,
    )
    async def newest_image(camera_id: str, *, annotated: bool = False) -> Response:
        with told_as_status():
            jpeg = await engine.newest_jpeg(camera_id, annotated=annotated)
        return Response(jpeg, media_type="image/jpeg", headers=NO_STORE)

    @router.post(
        "/camera/{camera_id:path}/reconnect",
        summary="Connect to a camera anew at once, without waiting for its next attempt",
        dependencies=for_clients,
        status_code=204,
    )
    async def reconnect(camera_id: str) -> None:
        with told_as_status():
            await engine.reconnect(camera_id)

    @router.get("/metrics", summary="Everything measured, for Prometheus", dependencies=for_clients)
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=METRICS_TYPE, headers=NO_STORE)

    return router


@contextmanager
def told_as_status() -> Iterator[None]:
    """Tell an error of the block as what HTTP has for it: 404, or 503 where it may pass."""
    try:
        yield
    except MessageProcessingError as exc:
        raise HTTPException(404, str(exc)) from exc
    except (StreamError, ServiceError) as exc:
        raise HTTPException(503, str(exc), {"Retry-After": "1"}) from exc
