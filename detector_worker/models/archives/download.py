"""Fetching an archive over HTTP, within bounds, from where the worker may."""

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import IO, Final, Literal

import aiohttp
from yarl import URL

from detector_worker.core.addresses import Address, NetworkPolicy, check_if_numeric
from detector_worker.core.exceptions import ArchiveDownloadError, ModelLoadError
from detector_worker.core.http_client import new_session

__all__ = ["Downloads", "NotThereError", "ServerUnavailableError", "Validators"]

_Part = Literal["archive", "signature"]
_CHUNK_BYTES: Final = 1 << 20
_SCHEMES: Final = frozenset({"http", "https"})
_MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_ABSENT: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


class ServerUnavailableError(ArchiveDownloadError):
    """The server did not answer, or could not just now: a copy that was fetched from there before may be used."""


class NotThereError(ArchiveDownloadError):
    """The server says that it has no such file."""


@dataclass(frozen=True, slots=True)
class Validators:
    """By what a server tells whether its file has changed, as it wrote them."""

    etag: str | None = None
    last_modified: str | None = None

    def headers(self) -> dict[str, str]:
        """Return what makes a request conditional."""
        told = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in told.items() if value is not None}


class Downloads:
    """Asks for files where the policy lets us; each within ``timeout_s``, redirects included."""

    def __init__(self, policy: NetworkPolicy, *, timeout_s: float) -> None:
        self._policy, self._timeout_s = policy, timeout_s

    async def fetch(
        self, address: Address, sink: IO[bytes], *, part: _Part, max_bytes: int, known: Validators | None = None
    ) -> Validators | None:
        """Write what lies at an address into ``sink``; returns the validators to ask with the next time.

        Up to three redirects are followed, each checked as the first address was; none leads from TLS to plain HTTP.

        Args:
            address: http(s).
            sink: Written to in threads.
            part: What it is called in errors.
            max_bytes: More is refused, by what the server tells of it already.
            known: Makes the request conditional; None is returned where nothing has changed.

        Raises:
            ServerUnavailableError: The server cannot be reached, is too slow, or says that it cannot answer now.
            NotThereError: It has no such file.
            ArchiveDownloadError: It answers otherwise.
            ModelLoadError: The file is too large or cannot be stored.
            MessageProcessingError: The address, or where it redirects to, is one where the worker must not connect.
        """
        try:
            async with asyncio.timeout(self._timeout_s), new_session(self._policy) as session:
                request = _Request(session, self._policy, address, part, max_bytes, known)
                return await request.run(sink)
        except TimeoutError as exc:
            what = f"did not arrive within {self._timeout_s:g} s"
            mend = "Check its server, or raise pipelines.download_timeout_seconds."
            raise ServerUnavailableError(f"The {part} {what}", where=str(address), mend=mend) from exc
        except (aiohttp.ClientError, OSError) as exc:
            what, mend = f"cannot be downloaded ({type(exc).__name__})", "Check the address and that its server is up."
            raise ServerUnavailableError(f"The {part} {what}", where=str(address), mend=mend) from exc


@dataclass(frozen=True, slots=True)
class _Request:
    session: aiohttp.ClientSession
    policy: NetworkPolicy
    address: Address
    part: _Part
    max_bytes: int
    known: Validators | None

    async def run(self, sink: IO[bytes]) -> Validators | None:
        address = self.address
        # Compressed answers would have to be inflated before they can be counted.
        headers = {"Accept-Encoding": "identity", **(self.known.headers() if self.known else {})}
        for _ in range(1 + _MAX_REDIRECTS):
            check_if_numeric(address, self.policy)
            async with self.session.get(address.secret(), headers=headers, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await self._receive(response, sink)
                address = self._next(address, response.headers.get("Location", ""))
        raise self._failure(f"is redirected more than {_MAX_REDIRECTS} times")

    def _next(self, address: Address, location: str) -> Address:
        """Return where a redirect leads. Credentials stay with the server that they were given for."""
        try:
            here = URL(address.secret())
            there = here.join(URL(location)).with_fragment(None)
            if there.user is None and there.origin() == here.origin():
                there = there.with_user(here.user).with_password(here.password)
        except ValueError as exc:
            raise self._failure("is redirected to what is no http address") from exc
        if (here.scheme, there.scheme) == ("https", "http"):
            raise self._failure("is redirected from https to http")
        return Address.parse(str(there), _SCHEMES)

    async def _receive(self, response: aiohttp.ClientResponse, sink: IO[bytes]) -> Validators | None:
        status, encoding = response.status, response.headers.get("Content-Encoding", "identity")
        if status == HTTPStatus.NOT_MODIFIED and self.known is not None:
            return None
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING:
            what, mend = f"was asked for, and the server answered {status}", "Check its server."
            raise ServerUnavailableError(f"The {self.part} {what}", where=str(self.address), mend=mend)
        if status != HTTPStatus.OK:
            what, mend = f"was asked for, and the server answered {status}", "Check the address, and what lies there."
            kind = NotThereError if status in _ABSENT else ArchiveDownloadError
            raise kind(f"The {self.part} {what}", where=str(self.address), mend=mend)
        if encoding.strip().lower() != "identity":
            raise self._failure("was sent compressed although that was not asked for")
        await self._store(response, sink)
        return Validators(response.headers.get("ETag"), response.headers.get("Last-Modified"))

    async def _store(self, response: aiohttp.ClientResponse, sink: IO[bytes]) -> None:
        received = 0
        if (response.content_length or 0) > self.max_bytes:
            raise self._too_large()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            received += len(chunk)
            if received > self.max_bytes:
                raise self._too_large()
            try:
                await asyncio.to_thread(sink.write, chunk)
            except OSError as exc:
                what, mend = f"cannot be stored: {exc.strerror}", "Make room in the data folder."
                raise ModelLoadError(f"The {self.part} {what}", where=str(self.address), mend=mend) from exc

    def _too_large(self) -> ModelLoadError:
        limit = f"{self.max_bytes >> 20} MiB" if self.max_bytes >= 1 << 20 else f"{self.max_bytes} bytes"
        return self._failure(f"is larger than {limit}", "Make it smaller, or raise pipelines.max_archive_bytes.")

    def _failure(self, what: str, mend: str = "Check the address, and what lies there.") -> ModelLoadError:
        return ModelLoadError(f"The {self.part} {what}", where=str(self.address), mend=mend)
