"""Every message of the control protocol, version 1: the one definition from which validation comes.

What clients send is bounded; unknown fields are ignored, for newer clients. Names on the wire are camelCase.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasGenerator, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt
from pydantic.alias_generators import to_camel

from detector_worker.core.bounded_json import bounded_object


class MessageType(StrEnum):
    """What a client may ask for."""

    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    REQUEST_STATE = "requestState"
    SET_SESSION_ID = "setSessionId"
    PATCH_SESSION = "patchSession"

    @property
    def reply_type(self) -> str:
        """The ``type`` of its reply."""
        return "stateReport" if self is MessageType.REQUEST_STATE else f"{self.value}Ack"


class ErrorCode(StrEnum):
    """Why a request was refused."""

    INVALID_JSON = "invalid_json"
    INVALID_FIELD = "invalid_field"
    TOO_LARGE = "too_large"
    UNKNOWN_TYPE = "unknown_type"
    NOT_FOUND = "not_found"
    ARCHIVE_INVALID = "archive_invalid"
    DOWNLOAD_FAILED = "download_failed"
    URL_REFUSED = "url_refused"
    LIMIT_EXCEEDED = "limit_exceeded"
    RATE_LIMITED = "rate_limited"
    FORBIDDEN = "forbidden"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal"


def _unsupported(value: Any) -> Any:
    if value is not None:
        raise ValueError("is not supported by this version")
    return value


# No control characters: ids are shown in logs and on pages.
_TEXT = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
_IDENTIFIER = r"^[^;\x00-\x1f\x7f-\x9f\u2028\u2029]+;[^;\x00-\x1f\x7f-\x9f\u2028\u2029]+$"
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=_TEXT)]
Url = Annotated[str, Field(max_length=2048, pattern=_TEXT)]
OptionalUrl = Annotated[Url | None, BeforeValidator(lambda value: None if value == "" else value)]
Integer = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
RequestId = Text | Integer
Number = Annotated[float, Field(strict=True, ge=-1e15, le=1e15, allow_inf_nan=False)]
Pixel = Annotated[float, Field(strict=True, ge=-100_000, le=100_000, allow_inf_nan=False)]
Unsupported = Annotated[None, BeforeValidator(_unsupported)]
SubscriptionIdentifier = Annotated[str, Field(max_length=401, pattern=_IDENTIFIER)]


class _FromClient(BaseModel):
    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        alias_generator=AliasGenerator(validation_alias=to_camel),
    )


class Request(_FromClient):
    """The envelope of whatever a client sends."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    payload: dict[str, Any] | None = None
    request_id: RequestId | None = None


class SubscriptionOptionsPayload(_FromClient):
    """Finer settings of one subscription."""

    transport: Literal["tcp", "udp"] | None = None
    min_size: Annotated[float, Field(strict=True, ge=0, le=10_000)] | None = None
    ignore_masks: Annotated[tuple[tuple[Pixel, Pixel, Pixel, Pixel], ...], Field(max_length=64)] = ()
    precision: Literal["auto", "f32", "bf16", "int8"] | None = None
    decode: Unsupported = None
    frozen_after_seconds: Annotated[float, Field(strict=True, ge=1, le=86_400)] | None = None
    """A picture that has not changed at all for so long is a fault of the camera."""


class SubscribePayload(_FromClient):
    """One camera, one archive, one display."""

    subscription_identifier: SubscriptionIdentifier
    model_url: Annotated[Url, Field(min_length=1)]
    rtsp_url: OptionalUrl = None
    snapshot_url: OptionalUrl = None
    snapshot_interval: Annotated[float, Field(strict=True, ge=50, le=3_600_000)] | None = None
    """Milliseconds."""
    target_fps: Annotated[float, Field(strict=True, gt=0, le=240)] | None = None
    model_id: Text | Integer | None = None
    model_name: Text | None = None
    crop_x1: Pixel | None = None
    crop_y1: Pixel | None = None
    crop_x2: Pixel | None = None
    crop_y2: Pixel | None = None
    options: SubscriptionOptionsPayload | None = None
    live_detections: Annotated[bool, Field(strict=True)] | None = None
    detect_url: OptionalUrl = None
    """A small RTSP stream of the same camera, for analysis; the other one is then opened only for crops."""
    resume_from: Unsupported = None


class UnsubscribePayload(_FromClient):
    """Which subscription to let go."""

    subscription_identifier: SubscriptionIdentifier


class SetSessionIdPayload(_FromClient):
    """A display's session; null ends it."""

    display_identifier: Text | None = None
    subscription_identifier: SubscriptionIdentifier | None = None
    session_id: Text | Integer | Number | None


class PatchSessionPayload(_FromClient):
    """What to merge into a session; null deletes a key."""

    session_id: Text | Integer | Number
    data: Annotated[dict[Text, Any], Field(max_length=100), AfterValidator(bounded_object)]


class _ToClient(BaseModel):
    model_config = ConfigDict(
        frozen=True, from_attributes=True, populate_by_name=True, alias_generator=to_camel, protected_namespaces=()
    )

    def to_wire(self) -> str:
        """Return the JSON text; numbers that are none become null."""
        return self.model_dump_json(by_alias=True)


Rate = Annotated[float, AfterValidator(lambda value: round(value, 2))]
Tenth = Annotated[float, AfterValidator(lambda value: round(value, 1))]
Confidence = Annotated[float, AfterValidator(lambda value: round(value, 4))]
_ABSENT_IF_NONE = Field(default=None, exclude_if=lambda value: value is None)


class ErrorDetail(_ToClient):
    """Why a request was refused."""

    code: ErrorCode
    message: str
    field: str | None = _ABSENT_IF_NONE


class StateModelReport(_ToClient):
    """One loaded model."""

    model_id: str
    memory_bytes: int


class QueueReport(_ToClient):
    """What waits to be delivered."""

    records: int = 0
    images: int = 0
    dead_letters: int = 0


class CameraConnectionReport(_ToClient):
    """One subscription's camera at work."""

    subscription_identifier: str
    model_id: str | int | None
    model_name: str | None
    crop_x1: int | None
    crop_y1: int | None
    crop_x2: int | None
    crop_y2: int | None
    url: str
    state: str
    fps_in: Rate
    fps_analysed: Rate
    fps_dropped: Rate
    latency_p50_ms: Annotated[float | None, Field(alias="latencyP50Ms")]
    latency_p95_ms: Annotated[float | None, Field(alias="latencyP95Ms")]
    errors: int
    reconnects: int
    damaged: int
    error_class: str | None
    warnings: tuple[str, ...]
    group: str | None


class StateReportPayload(_ToClient):
    """How the worker is."""

    version: str
    uptime_seconds: float
    cpu_usage: float
    memory_usage: float
    gpu_usage: float | None
    gpu_memory_usage: float | None
    camera_connections: tuple[CameraConnectionReport, ...]
    models: tuple[StateModelReport, ...]
    queues: QueueReport
    clients: int


class SessionPayload(_ToClient):
    """All data of a session, after a patch."""

    session: dict[str, Any]


class Reply(_ToClient):
    """The one answer to a request; at each heartbeat also a stateReport that nobody asked for."""

    type: str
    status: Literal["success", "error"]
    request_id: RequestId | None = _ABSENT_IF_NONE
    subscription_id: str | None = _ABSENT_IF_NONE
    payload: StateReportPayload | SessionPayload | None = _ABSENT_IF_NONE
    error: ErrorDetail | None = _ABSENT_IF_NONE


class BoundingBoxReport(_ToClient):
    """Pixels of the full frame."""

    x1: Tenth
    y1: Tenth
    x2: Tenth
    y2: Tenth


class DetectionReport(_ToClient):
    """One object of one frame."""

    class_name: str
    confidence: Confidence
    track_id: int | None
    bounding_box: BoundingBoxReport


class ModelInfo(_ToClient):
    """Which archive found it, in the client's words."""

    model_id: str | int | None
    model_name: str | None
    pipeline_id: str | None


class ImageDetectionPayload(_ToClient):
    """A finished pipeline run (``final``), or an analysed frame."""

    subscription_id: str
    camera_id: str
    sequence: int | None = _ABSENT_IF_NONE
    timestamp: str
    """Of the capture: RFC 3339, UTC, milliseconds."""
    frame_id: int
    record_id: str | None
    session_id: str | int | float | None
    detections: tuple[DetectionReport, ...]
    branches: dict[str, dict[str, Any]]
    fields: dict[str, Any]
    status: Literal["completed", "partial", "failed"]
    final: bool
    model_info: ModelInfo


class StreamStatusPayload(_ToClient):
    """How a camera's connection is."""

    subscription_id: str
    camera_id: str
    state: str
    error_class: str | None
    attempt: int
    retry_in_seconds: float | None
    reason: str | None
    warnings: tuple[str, ...]
    """``blind``, ``clock_suspect``, ``fallback``, ``no_large_stream``: what is wrong although pictures come."""


class Event(_ToClient):
    """What the worker tells unasked."""

    type: Literal["imageDetection", "streamStatus"]
    payload: ImageDetectionPayload | StreamStatusPayload
