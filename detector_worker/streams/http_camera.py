"""The conversation with a camera over HTTP: where it may lead us, who we are there, what its answers mean."""

import base64
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

import aiohttp
from aiohttp import ClientMiddlewareType, ClientResponse, DigestAuthMiddleware
from yarl import URL

from detector_worker.core import exceptions
from detector_worker.core.addresses import Address, NetworkPolicy, check_if_numeric
from detector_worker.core.exceptions import MessageProcessingError
from detector_worker.core.http_client import new_session
from detector_worker.streams.stream_errors import stream_error

__all__ = ["HTTPCamera"]

_SCHEMES: Final = frozenset({"http", "https"})
_MAX_REDIRECTS: Final = 3
_MAX_DISCARDED_BYTES: Final = 65_536
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_BY_STATUS: Final = {401: "authentication", 403: "authentication", 404: "not_found", 410: "not_found"}
_HEADERS: Final = {
    "Accept": "image/jpeg, image/png, multipart/x-mixed-replace, */*;q=0.1",
    "Accept-Encoding": "identity",
}


class HTTPCamera:
    """One connection to one camera, kept alive over its answers. Belongs to one event loop and must be closed.

    Redirects are followed by ourselves, and each target is checked like the camera's own address. User and password
    go to the camera's own scheme, host and port only, or from HTTP to HTTPS of its host, and once it has asked for
    them: as digest, or basic where its first offer is that.
    """

    def __init__(self, address: Address, policy: NetworkPolicy, *, where: str, keepalive_s: float) -> None:
        """Prepare; needs the running loop. ``where`` names the camera in errors, without its password."""
        self._address, self._policy, self._where = address, policy, where
        self._session = new_session(policy, keepalive_s=keepalive_s)
        self._user: tuple[str, str] | None = None
        self._logins: dict[tuple[str, str, int | None], _Login] = {}
        """By scheme, host and port: what was asked for over TLS is not sent without."""
        self._answer: ClientResponse | None = None
        parts = urlsplit(address.secret())
        if parts.username is not None:
            self._user = unquote(parts.username), unquote(parts.password or "")

    async def ask(self, conditions: Mapping[str, str]) -> ClientResponse:
        """Ask for the camera's picture and return the answer once its header is there.

        Its status is 200, or 304 where ``conditions``, the headers of a conditional request, were given. Read it
        to its end or close it before the next question.

        Raises:
            StreamError: Any other answer, or a redirect that leads to where the worker must not connect.
            aiohttp.ClientError, OSError: There is no answer; to be translated without being chained.
        """
        target = self._address
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._answer = await self._get(target, {**_HEADERS, **conditions})
            status, location = response.status, response.headers.get("Location")
            if status == 200 or (status == 304 and conditions):
                return response
            if status not in _REDIRECTS or location is None:
                what = f"The camera answers with HTTP status {status}"
                raise stream_error(_BY_STATUS.get(status, "refused"), what, where=self._where)
            await _discard(response)
            target = self._target(target, location)
        raise stream_error("refused", f"The camera redirects more than {_MAX_REDIRECTS} times", where=self._where)

    async def close(self) -> None:
        """Close the connection, whatever is under way."""
        if self._answer is not None:
            self._answer.close()
        await self._session.close()

    async def _get(self, target: Address, headers: Mapping[str, str]) -> ClientResponse:
        login = self._login(target)
        if login is None:
            return await self._request(target, headers, ())
        if not login.is_basic_wanted:
            response = await self._request(target, headers, login.digest)
            if response.status != 401 or not _offers_basic_first(response):
                return response
            login.is_basic_wanted = True
            await _discard(response)
        return await self._request(target, {**headers, "Authorization": login.basic}, ())

    def _login(self, target: Address) -> "_Login | None":
        """Return how the camera knows us there; None where it is another host, or one that we left TLS for."""
        origin, own = _origin(target), _origin(self._address)
        is_upgrade = target.host == self._address.host and (own[0], origin[0]) == ("http", "https")
        if self._user is None or not (origin == own or is_upgrade):
            return None
        if origin not in self._logins:
            if len(self._logins) > _MAX_REDIRECTS:  # it leads to ever new ports
                self._logins.clear()
            self._logins[origin] = _Login(*self._user)
        return self._logins[origin]

    async def _request(
        self, target: Address, headers: Mapping[str, str], middlewares: tuple[ClientMiddlewareType, ...]
    ) -> ClientResponse:
        refusal: MessageProcessingError | None = None
        try:
            check_if_numeric(target, self._policy)
            url = URL(target.secret()).with_user(None)
            return await self._session.get(url, headers=headers, allow_redirects=False, middlewares=middlewares)
        except MessageProcessingError as exc:
            refusal = exc
        except aiohttp.ClientResponseError:
            pass
        # Outside of the handlers: errors that are not ours quote the address with its password.
        if refusal is not None:
            raise exceptions.ConnectionError(refusal.what, where=self._where, mend=refusal.mend, error_class="refused")
        raise stream_error("corrupt", "The answer's header is no HTTP, or too long", where=self._where)

    def _target(self, current: Address, location: str) -> Address:
        """Return where a redirect leads; user and password in it are the redirecting camera's idea, not used."""
        try:
            return Address.parse(urljoin(current.secret(), location), _SCHEMES)
        except MessageProcessingError as exc:
            what = exc.what
        except ValueError:
            what = "This is no URL"
        raise stream_error("refused", f"The camera redirects, which is refused: {what}", where=self._where)


async def _discard(response: ClientResponse) -> None:
    """Read what nobody wants, so that its connection can be used again; close that where it is too much."""
    size_bytes = 0
    try:
        while size_bytes <= _MAX_DISCARDED_BYTES and (chunk := await response.content.readany()):
            size_bytes += len(chunk)
    finally:
        response.close()  # where it was read to its end, its connection is no longer this one's


def _offers_basic_first(response: ClientResponse) -> bool:
    return response.headers.get("WWW-Authenticate", "").lower().startswith("basic")


class _Login:
    """User and password as one server wants them."""

    def __init__(self, user: str, password: str) -> None:
        self.basic: Final = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.is_basic_wanted = False
        # A user with a colon is impossible there, and so refused by aiohttp.
        self.digest: Final[tuple[ClientMiddlewareType, ...]] = (
            () if ":" in user else (DigestAuthMiddleware(user, password),)
        )


def _origin(address: Address) -> tuple[str, str, int | None]:
    return address.scheme, address.host, address.port
