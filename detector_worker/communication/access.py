"""Who may connect: tokens, compared in constant time, and the pages whose scripts may."""

import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import SecretStr
from starlette.requests import HTTPConnection

__all__ = ["SUBPROTOCOL", "AccessPolicy", "RateLimit", "Refusal"]

SUBPROTOCOL = "detector.v1"
_BEARER_SUBPROTOCOL = "bearer."


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection is refused, as HTTP tells it."""

    status: int
    reason: str

    @property
    def headers(self) -> dict[str, str] | None:
        """What HTTP wants beside the status."""
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else None


class AccessPolicy:
    """Decides before anything is accepted. Pure."""

    def __init__(self, *, tokens: Sequence[SecretStr] = (), origins: Sequence[str] = ()) -> None:
        self._digests = tuple(_digest(token.get_secret_value()) for token in tokens)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    @property
    def needs_token(self) -> bool:
        """Whether there are tokens at all."""
        return bool(self._digests)

    def refusal(self, connection: HTTPConnection) -> Refusal | None:
        """Return why a request or a WebSocket may not pass, or None where it may."""
        if not self._origin_may(connection):
            return Refusal(403, "The page that asks is not on the list of access.origins.")
        if not self.knows(connection):
            return Refusal(401, "A token is needed: Authorization: Bearer <token>.")
        return None

    def knows(self, connection: HTTPConnection) -> bool:
        """True if no token is needed, or one of the right ones was brought."""
        if not self._digests:
            return True
        offered = [_digest(text) for text in _offered_tokens(connection)]
        # Every pair is compared, so that the time taken tells nothing.
        return sum(hmac.compare_digest(one, known) for one in offered for known in self._digests) > 0

    def _origin_may(self, connection: HTTPConnection) -> bool:
        origin = connection.headers.get("origin")
        if origin is None or origin.lower() in self._origins:
            return True
        host = connection.headers.get("host", "")
        if not host or origin.partition("://")[2].lower() != host.lower():
            return False
        # The worker's own page. Without tokens a name is not trusted: a foreign page's name may lead here (rebinding).
        return self.needs_token or _is_unmistakable(host)


class RateLimit:
    """So many messages a second on the average, bursts of twice as many. Pure; one per connection."""

    def __init__(self, *, per_second: float) -> None:
        self._per_second = per_second
        self._left = self._burst = max(1.0, 2 * per_second)
        self._seen_s: float | None = None

    def allows(self, now_s: float) -> bool:
        """Count a message at ``now_s``, monotonic seconds; False where it is one too many."""
        if self._seen_s is not None:
            self._left = min(self._burst, self._left + (now_s - self._seen_s) * self._per_second)
        self._seen_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _offered_tokens(connection: HTTPConnection) -> list[str]:
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    offered = [value.strip()] if scheme.lower() == "bearer" else []
    for subprotocol in connection.scope.get("subprotocols", ()):
        if subprotocol.startswith(_BEARER_SUBPROTOCOL):
            word = subprotocol.removeprefix(_BEARER_SUBPROTOCOL)
            offered += [word, *_decoded(word)]
    return offered[:8]


def _decoded(word: str) -> list[str]:
    """Return what a base64url word without padding stands for, if it is one."""
    try:
        return [base64.urlsafe_b64decode(word + "=" * (-len(word) % 4)).decode()]
    except (binascii.Error, UnicodeError, ValueError):
        return []


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _is_unmistakable(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
