"""Every setting there is, one model a section: names, types, bounds and defaults.

Only settings that something reads have a place here. `core.config` fills these models; whoever needs a
value is handed the value, never the section.
"""

import json
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr


def _as_list(value: Any) -> Any:
    """An environment variable holds a list as JSON, or as words between commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [word.strip() for word in value.split(",") if word.strip()]


def _redis_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("write it as redis://, rediss:// or unix://")
    return value


Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_as_list)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
Folders = Annotated[tuple[Folder, ...], BeforeValidator(_as_list)]
Origin = Annotated[str, Field(pattern=r"^https?://[^/\s]+$")]
Origins = Annotated[tuple[Origin, ...], BeforeValidator(_as_list)]
PublicKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
Token = Annotated[SecretStr, Field(min_length=1, max_length=512)]
Tokens = Annotated[tuple[Token, ...], BeforeValidator(_as_list)]
TrustedKeys = Annotated[tuple[PublicKey, ...], BeforeValidator(_as_list)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
MIB = 1024 * 1024


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ServerSettings(_Section):
    """Where clients connect, and where everything lies."""

    host: Annotated[str, Field(min_length=1, max_length=255)] = "127.0.0.1"
    port: Port | None = None
    """None: the environment's own, 8000 in prod, else 8001. 0: any free port."""
    data_dir: Folder = Path("data")
    heartbeat_interval: Annotated[float, Field(ge=0.1, le=3600)] = 5.0
    """Seconds between two state reports to every client."""


class StreamsSettings(_Section):
    """Cameras."""

    target_fps: Annotated[float, Field(gt=0, le=240)] = 5.0
    """Frames analysed per second and camera, at most, where neither client nor pipeline says."""
    reconnect_interval: Annotated[float, Field(ge=0.05, le=60)] = 5.0
    """Seconds before the first retry; doubled for each further one."""
    max_retries: Annotated[int, Field(ge=-1)] = -1
    """-1: for ever."""
    transport: Literal["tcp", "udp"] | None = None
    """None: TCP first, UDP where the camera refuses it."""
    allowed_networks: Networks = ()
    """Where cameras may be; empty: anywhere but link-local, multicast and metadata addresses."""
    denied_networks: Networks = ()
    """Where cameras must not be, inside of what is allowed."""
    verify_certificates: bool = False
    """Whether cameras that speak TLS (``rtsps``, ``https``) need a valid certificate: theirs are mostly self-signed."""
    subscription_grace_seconds: Annotated[float, Field(ge=0, le=86_400 * 365)] = 60.0
    """How long a subscription outlives its last client; 0: for ever."""


class ModelsSettings(_Section):
    """Inference."""

    memory_budget_mb: Annotated[int, Field(ge=16)] = 4096
    """What loaded models of one group may take, MiB."""
    runtime: Literal["auto", "openvino", "onnxruntime"] = "auto"
    """auto: ONNX Runtime where it has an accelerator, else OpenVINO."""
    device: Literal["auto", "cpu", "cuda", "tensorrt", "coreml"] = "auto"
    """auto: the fastest that this machine has."""
    precision: Literal["auto", "f32", "bf16", "int8"] = "auto"
    """Of detectors; auto: a lower one than f32 only where it was seen to find the same."""
    allow_pickle: bool = False
    """Whether ``.pt`` files, which run code when they are loaded, are converted (extra ``ultralytics``)."""
    trial_memory_mb: Annotated[int, Field(ge=256)] = 2048
    """What a model that is seen for the first time may take while it is tried in a process of its own, MiB."""
    trial_seconds: Seconds = 120.0
    """How long that may last, for one archive."""


class PipelinesSettings(_Section):
    """Archives."""

    allowed_paths: Folders = ()
    """Folders from which archives may be loaded; while there are no tokens, empty means: any."""
    allowed_networks: Networks = ()
    """From where archives may be downloaded; as in ``streams``."""
    max_archive_bytes: Annotated[int, Field(ge=1024)] = 1024 * MIB
    download_timeout_seconds: Seconds = 120.0
    refresh_seconds: Seconds = 60.0
    """Between two looks whether an archive in use has changed at its address."""
    cache_budget_mb: Annotated[int, Field(ge=16)] = 8192
    """What unpacked archives may take on disk, MiB; those in use always stay."""
    trusted_keys: TrustedKeys = ()
    """Ed25519 public keys, base64; where there are any, only archives load that one of them has signed."""


class DatabaseSettings(_Section):
    """PostgreSQL; host None: the worker's own."""

    host: Annotated[str, Field(min_length=1)] | None = None
    port: Annotated[int, Field(ge=1, le=65_535)] = 5432
    database: Annotated[str, Field(min_length=1, max_length=63)] = "detector_worker"
    user: Annotated[str, Field(min_length=1, max_length=63)] = "detector_worker"
    """Needs SELECT, INSERT and UPDATE on the tables that archives name, and more where ``auto_migrate`` is on."""
    password: SecretStr | None = None
    sslmode: SslMode = "prefer"
    """As libpq's: prefer and require encrypt, verify-ca and verify-full also ask who the server is."""
    sslrootcert: Folder | None = None
    """PEM file of the authorities that sign the server's certificate; None: with verify-full the system's."""
    sslcert: Folder | None = None
    """PEM file of the worker's own certificate, where the server asks for one."""
    sslkey: Folder | None = None
    """PEM file of its key, unencrypted; None: it lies in ``sslcert``."""
    connection_pool_size: Annotated[int, Field(ge=1, le=100)] = 8
    auto_migrate: bool | None = None
    """Whether the worker may add tables and columns that archives declare, and bring its own schema up to date.

    None: the first only in the worker's own PostgreSQL, the second anywhere.
    """


class RedisSettings(_Section):
    """Redis or Valkey; url None: the worker's own."""

    url: Annotated[SecretStr, AfterValidator(_redis_url)] | None = None
    """``redis://``, ``rediss://`` or ``unix://``, credentials included."""
    tls_ca_file: Folder | None = None
    """Authorities that a ``rediss://`` server's certificate must come from, PEM; None: those of the system."""
    tls_cert_file: Folder | None = None
    """The worker's own certificate, PEM, where the server wants one."""
    tls_key_file: Folder | None = None
    """Its key, where it is not in the same file."""
    tls_verify_names: bool = True
    """Whether the certificate must be for the host of the address."""


class ServicesSettings(_Section):
    """Servers of the worker's own."""

    embedded: bool | None = None
    """Whether they may be started where an address is missing; None: only in dev."""


class EngineSettings(_Section):
    """Processes and threads."""

    groups: Annotated[int, Field(ge=1, le=256)] | None = None
    """Child processes that analyse; None: one per 8 cores."""
    analysis_threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Of each group; None: its share of the cores."""
    max_concurrent_runs: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Pipeline runs under way at once in one group."""


class SpoolSettings(_Section):
    """The durable queue."""

    quota_mb: Annotated[int, Field(ge=1, le=16_777_216)] = 4096
    """What may wait on disk, MiB; when it is full, the oldest pictures go, then the oldest records."""
    drain_seconds: Annotated[float, Field(ge=0, le=4)] = 4.0
    """How long a stop may go on delivering; a stop as a whole takes at most 10 s."""


class SessionsSettings(_Section):
    """The session cache."""

    max_entries: Annotated[int, Field(ge=1)] = 10_000
    max_memory_mb: Annotated[int, Field(ge=1)] = 64
    ttl_seconds: Seconds = 3600.0


class AccessSettings(_Section):
    """Who may connect, and how much of it."""

    tokens: Tokens = ()
    origins: Origins = ()
    """Origins of foreign pages that may connect, such as ``https://desk.example``; the worker's own always may."""
    allow_anonymous_network: bool = False
    """Listen beyond this machine without tokens."""
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 1000
    max_messages_per_second: Annotated[float, Field(gt=0, le=100_000)] = 50.0
    """Of one connection, on the average; bursts of twice as many pass."""
    max_subscriptions: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Of one connection."""


class LoggingSettings(_Section):
    """What is logged, and how."""

    level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value),
    ] = "INFO"
    json_lines: bool = False
