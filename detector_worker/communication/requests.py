"""From a client's text to what it asks for, or to the reason why not. Pure."""

from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from detector_worker.core.addresses import Address, NetworkPolicy, check_if_numeric
from detector_worker.core.exceptions import MessageProcessingError
from detector_worker.core.wire_messages import ErrorCode, Request, SubscribePayload
from detector_worker.engine.engine import SubscriptionOptions, SubscriptionSpec

__all__ = ["MAX_MESSAGE_BYTES", "parse_payload", "parse_request", "refused", "subscription_spec"]

MAX_MESSAGE_BYTES: Final = 1024 * 1024
_CAMERA_SCHEMES: Final = frozenset({"rtsp", "rtsps"})
_SNAPSHOT_SCHEMES: Final = frozenset({"http", "https"})
_ARCHIVE_SCHEMES: Final = frozenset({"http", "https", "file"})

Payload = TypeVar("Payload", bound=BaseModel)


def parse_request(message: str | bytes) -> Request:
    """Read the envelope; a MessageProcessingError says what is wrong with it."""
    if isinstance(message, bytes):
        raise refused("A binary message", "Send JSON as text.", ErrorCode.INVALID_JSON)
    encoded = message.encode()
    if len(encoded) > MAX_MESSAGE_BYTES:
        raise refused(f"A message of {len(encoded)} bytes", f"At most {MAX_MESSAGE_BYTES}.", ErrorCode.TOO_LARGE)
    try:
        content = orjson.loads(encoded)
    except orjson.JSONDecodeError as exc:
        what = f"No JSON (line {exc.lineno}, column {exc.colno})"
        raise refused(what, "Send one JSON object, not nested too deeply.", ErrorCode.INVALID_JSON) from None
    if not isinstance(content, dict):
        raise refused("The message is no object", 'Send {"type": ..., "payload": {...}}.', ErrorCode.INVALID_JSON)
    return _validated(Request, content)


def parse_payload(model: type[Payload], request: Request) -> Payload:
    """Read the payload; a MessageProcessingError names the first field that is wrong."""
    return _validated(model, request.payload or {})


def subscription_spec(
    payload: SubscribePayload, *, camera_policy: NetworkPolicy, archive_policy: NetworkPolicy
) -> SubscriptionSpec:
    """Make the engine's order, or raise a MessageProcessingError that names the field that refuses it."""
    if payload.rtsp_url is None and payload.snapshot_url is None:
        raise refused("No camera address", "Give rtspUrl or snapshotUrl.", ErrorCode.INVALID_FIELD, "rtspUrl")
    rtsp_url = _checked(payload.rtsp_url, "rtspUrl", _CAMERA_SCHEMES, camera_policy)
    snapshot_url = _checked(payload.snapshot_url, "snapshotUrl", _SNAPSHOT_SCHEMES, camera_policy)
    detect_url = _checked(payload.detect_url, "detectUrl", _CAMERA_SCHEMES, camera_policy)
    model_url = payload.model_url
    if "://" in model_url:
        model_url = _checked(model_url, "modelUrl", _ARCHIVE_SCHEMES, archive_policy) or ""
    display_id, _, camera_id = payload.subscription_identifier.partition(";")
    options = payload.options
    return SubscriptionSpec(
        subscription_id=payload.subscription_identifier,
        display_id=display_id,
        camera_id=camera_id,
        model_url=model_url,
        rtsp_url=rtsp_url,
        snapshot_url=snapshot_url,
        snapshot_interval_s=1.0 if payload.snapshot_interval is None else payload.snapshot_interval / 1000,
        target_fps=payload.target_fps,
        model_id=payload.model_id,
        model_name=payload.model_name,
        crop=_crop(payload),
        detect_url=detect_url,
        options=SubscriptionOptions()
        if options is None
        else SubscriptionOptions(
            transport=options.transport,
            min_size_px=options.min_size,
            ignore_masks=options.ignore_masks,
            frozen_after_s=options.frozen_after_seconds,
            precision=options.precision,
        ),
    )


def _crop(payload: SubscribePayload) -> tuple[int, int, int, int] | None:
    sides = {
        "cropX1": payload.crop_x1,
        "cropY1": payload.crop_y1,
        "cropX2": payload.crop_x2,
        "cropY2": payload.crop_y2,
    }
    given = [round(side) for side in sides.values() if side is not None]
    if not given:
        return None
    if len(given) < 4:
        missing = next(name for name, side in sides.items() if side is None)
        raise refused("Half a crop region", "Give all four sides or none.", ErrorCode.INVALID_FIELD, missing)
    x1, y1, x2, y2 = max(0, given[0]), max(0, given[1]), given[2], given[3]
    if x2 <= x1 or y2 <= y1:
        wrong = "cropX2" if x2 <= x1 else "cropY2"
        raise refused("An empty crop region", "cropX1 < cropX2, cropY1 < cropY2.", ErrorCode.INVALID_FIELD, wrong)
    return x1, y1, x2, y2


def _checked(url: str | None, field: str, schemes: frozenset[str], policy: NetworkPolicy) -> str | None:
    if url is None:
        return None
    try:
        address = Address.parse(url, allowed_schemes=schemes)
        if address.host:
            check_if_numeric(address, policy)
    except MessageProcessingError as exc:
        exc.field = field
        raise
    return address.secret()


def _validated(model: type[Payload], content: dict[str, Any]) -> Payload:
    try:
        return model.model_validate(content)
    except ValidationError as exc:
        # Without the input: it may hold a password.
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        field = str(first["loc"][0])
        path = ".".join(str(part) for part in first["loc"] if not str(part).startswith("constrained"))
        remedy = first["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)
        raise refused(f"{path} {remedy}", "Correct the field.", ErrorCode.INVALID_FIELD, field) from None


def refused(what: str, mend: str, code: ErrorCode, field: str | None = None) -> MessageProcessingError:
    """Make the error that says why a message is not carried out."""
    return MessageProcessingError(what, where="message", mend=mend, code=code, field=field)
