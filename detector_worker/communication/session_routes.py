"""The HTTP side of sessions: what is known of one, and what made a camera's latest visit stable."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse

from detector_worker.communication.access import AccessPolicy
from detector_worker.communication.http_routes import NO_STORE, access_check, told_as_status
from detector_worker.core.clock import rfc3339
from detector_worker.core.wire_messages import DetectionReport
from detector_worker.storage.session_table import Session, SessionRecord
from detector_worker.storage.sessions import Sessions

__all__ = ["session_router"]


def session_router(*, sessions: Sessions, access: AccessPolicy) -> APIRouter:
    """Make the routes; who may ask is decided as for the WebSocket."""
    router = APIRouter(dependencies=[Depends(access_check(access))])

    # A camera's or a session's id may hold slashes.
    @router.get("/camera/{camera_id:path}/detection", summary="What made a camera's latest visit stable")
    async def latest_detection(camera_id: str) -> JSONResponse:
        found: Any = await sessions.caches.latest_detection(camera_id)
        if not found:
            raise HTTPException(404, f"No visit of camera {camera_id} is known, or the latest one was long ago.")
        seen_at = rfc3339(found[0]["timestamp"])
        content = {"cameraId": camera_id, "timestamp": seen_at, "detections": _detections(found)}
        return JSONResponse(content, headers=NO_STORE)

    @router.get("/sessions/{session_id:path}", summary="A session: its data, its records, and its latest result")
    async def session(session_id: str) -> JSONResponse:
        with told_as_status():
            found = await sessions.get(session_id)
        if found is None:
            raise HTTPException(404, f"There is no session {session_id}, or no longer.")
        result: Any = await sessions.caches.pipeline_result(found.key)
        return JSONResponse(_session(found, result), headers=NO_STORE)

    return router


def _session(session: Session, result: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "sessionId": session.session_id,
        "changedAt": rfc3339(session.changed_at),
        "data": dict(session.data),
        "records": [_record(record) for record in session.records],
        "result": None
        if result is None
        else {
            "status": result["status"],
            "detections": _detections(result["detections"]),
            "branches": result["classification_results"],
            "fields": result["fields"],
        },
    }


def _record(record: SessionRecord) -> dict[str, Any]:
    place = record.place
    return {
        "recordId": record.record_id,
        "cameraId": record.camera_id,
        "table": place and place.table,
        "keyField": place and place.key_field,
        "keyValue": place and place.key_value,
        "status": record.status,
    }


def _detections(detections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [DetectionReport.model_validate(one).model_dump(by_alias=True) for one in detections]
