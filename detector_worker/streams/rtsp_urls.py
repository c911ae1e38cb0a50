"""Addresses of RTSP cameras, written anew for where a connection really leads."""

import re
from typing import Final

from detector_worker.core.addresses import Address

__all__ = ["at_authority", "redirected"]

_SCHEMES: Final = frozenset({"rtsp", "rtsps"})


def at_authority(address: Address, authority: str) -> str:
    """Return an address, user and password included, as plain RTSP at another host and port."""
    user_info, rest = _secret_parts(address)
    return f"rtsp://{user_info}{authority}{rest}"


def redirected(address: Address, location: str) -> Address:
    """Return where a camera's redirect leads.

    User and password are those of ``address``, and go along only to the same host and not out of TLS; what the
    camera itself names is not used.

    Raises:
        MessageProcessingError: It is no such address.
    """
    target = Address.parse(location, _SCHEMES)
    is_trusted = target.host == address.host and target.scheme in {"rtsps", address.scheme}
    user_info = _secret_parts(address)[0] if is_trusted else ""
    host = f"[{target.host}]" if ":" in target.host else target.host
    return Address.parse(f"{target.scheme}://{user_info}{host}:{target.port}{_secret_parts(target)[1]}", _SCHEMES)


def _secret_parts(address: Address) -> tuple[str, str]:
    """Return user and password with their @, and path and query."""
    tail = address.secret().partition("://")[2]
    authority = re.split("[/?]", tail, maxsplit=1)[0]
    return authority[: authority.rfind("@") + 1], tail[len(authority) :]
