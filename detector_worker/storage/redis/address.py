"""Where Redis is, how it proves who it is, and the driver's pool of connections to it."""

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from detector_worker.core.addresses import Address
from detector_worker.core.exceptions import ConfigurationError, MessageProcessingError

__all__ = ["RedisTls", "new_pool", "shown_address"]

_SCHEMES: Final = frozenset({"redis", "rediss"})
_MEND: Final = "Write redis://host:6379/0, rediss://user:password@host or unix:///folder/socket."


@dataclass(frozen=True, slots=True)
class RedisTls:
    """How a server at a ``rediss://`` address proves who it is, and how we do. Its certificate is always checked."""

    ca_file: Path | None = None
    """Authorities to believe, PEM; None: those of the system."""
    cert_file: Path | None = None
    """Our own certificate, PEM, where the server wants one; its key may be in it."""
    key_file: Path | None = None
    verify_names: bool = True
    """Whether the certificate must be for the host of the address."""


def new_pool(
    url: str, tls: RedisTls, *, connect_s: float, on_connect: Callable[[AbstractConnection], Awaitable[None]]
) -> ConnectionPool:
    """Make a pool; nothing is connected yet. Its calls know no time limit but ``connect_s``, and retry nothing.

    Raises:
        ConfigurationError: The address cannot be used, or a file of ``tls`` cannot; ``where`` names the key.
    """
    options: dict[str, Any] = {
        "socket_timeout": None,  # we bound each call ourselves, as a whole
        "socket_connect_timeout": connect_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # spares a command at each connection, which a user would need a right for
        "driver_info": None,
        "client_name": "detector-worker",
        "redis_connect_func": on_connect,
    }
    try:
        pool: ConnectionPool = ConnectionPool.from_url(url, **options, **_tls_options(url, tls))
        pool.connection_class(**pool.connection_kwargs)  # refuses what the address asks for and it does not know
    except (ValueError, TypeError):
        raise ConfigurationError("The address cannot be read", where="redis.url", mend=_MEND) from None
    return pool


def shown_address(url: str) -> str:
    """Return what may be shown of an address. ConfigurationError: it cannot be read."""
    try:
        return urlsplit(url).path if url.startswith("unix://") else str(Address.parse(url, _SCHEMES))
    except (MessageProcessingError, ValueError) as exc:
        what = exc.what if isinstance(exc, MessageProcessingError) else "The address cannot be read"
        raise ConfigurationError(what, where="redis.url", mend=_MEND) from None


def _tls_options(url: str, tls: RedisTls) -> dict[str, Any]:
    files = {"tls_ca_file": tls.ca_file, "tls_cert_file": tls.cert_file, "tls_key_file": tls.key_file}
    given = {f"redis.{key}": file for key, file in files.items() if file is not None}
    if not url.startswith("rediss://"):
        if given:
            mend = "Begin redis.url with rediss://, or leave this setting out."
            raise ConfigurationError(
                "It is set, but the address does not ask for TLS", where=next(iter(given)), mend=mend
            )
        return {}
    for where, file in given.items():
        try:
            file.open("rb").close()
        except OSError as exc:
            mend = "Name a PEM file that the worker's user may read."
            raise ConfigurationError(f"{file} cannot be read: {exc.strerror}", where=where, mend=mend) from None
    _require_usable(tls)
    return {
        "ssl_ca_certs": None if tls.ca_file is None else str(tls.ca_file),
        "ssl_certfile": None if tls.cert_file is None else str(tls.cert_file),
        "ssl_keyfile": None if tls.key_file is None else str(tls.key_file),
        "ssl_check_hostname": tls.verify_names,
    }


def _require_usable(tls: RedisTls) -> None:
    """Read the files once as each connection will, so that what is wrong with them is told at the start."""
    where, context = "redis.tls_ca_file", ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if tls.ca_file is not None:
            context.load_verify_locations(tls.ca_file)
        where = "redis.tls_cert_file"
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")  # else OpenSSL asks at the terminal
        elif tls.key_file is not None:
            raise ConfigurationError("A key needs its certificate", where=where, mend="Set this one, too.")
    except ssl.SSLError as exc:
        mend = "Give PEM files: certificates, and the key that belongs to them, without a pass phrase."
        raise ConfigurationError(f"OpenSSL: {exc.reason or exc}", where=where, mend=mend) from None
