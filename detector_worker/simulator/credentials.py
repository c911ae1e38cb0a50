"""What a camera asks of those who want to see it: HTTP's basic and digest authentication, which RTSP has too.

Source: RFC 2617; RFC 2069 for a digest without ``qop``, as many cameras have it.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["Credentials", "Scheme"]

Scheme = Literal["digest", "basic"]

_REALM: Final = "camera"
_PARAMETER: Final = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user, a password, and the one nonce that a camera gives out."""

    user: str
    password: str = field(repr=False)
    scheme: Scheme = "digest"
    _nonce: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    @property
    def challenge(self) -> dict[str, str]:
        """The header that comes with a 401."""
        basic = f'Basic realm="{_REALM}"'
        digest = f'Digest realm="{_REALM}", nonce="{self._nonce}", algorithm=MD5, qop="auth"'
        return {"WWW-Authenticate": basic if self.scheme == "basic" else digest}

    def accepts(self, method: str, uri: str, authorization: str) -> bool:
        """True if a request's Authorization header fits; ``uri`` is what stands in the request's first line."""
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() != self.scheme:
            return False
        if self.scheme == "basic":
            wanted = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            return _same(value.strip(), wanted)
        given = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(value)}
        return _same(given.get("response", ""), self._digest(method, uri, given))

    def _digest(self, method: str, uri: str, given: dict[str, str]) -> str:
        """Return the right answer to our challenge: whoever answers another one, or for another address, differs."""
        parts = [_md5(f"{self.user}:{_REALM}:{self.password}"), self._nonce, _md5(f"{method}:{uri}")]
        if "qop" in given:
            parts[2:2] = [given.get("nc", ""), given.get("cnonce", ""), given["qop"]]
        return _md5(":".join(parts))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
