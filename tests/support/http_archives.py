"""A real HTTP server of archives that counts what it is asked for and misbehaves as it is told."""

import asyncio
import email.utils
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.models.archives.archive_source import ArchiveSource
from detector_worker.models.archives.unpacking import ArchiveLimits

__all__ = ["ArchiveServer", "Served", "new_source", "serving", "unpacked"]


@dataclass
class Served:
    """What lies at one path, and how it is answered."""

    content: bytes = b""
    etag: str | None = None
    modified_at: int | None = None
    """Seconds since the epoch; tells Last-Modified and is compared with If-Modified-Since."""
    status: int = 200
    location: str | None = None
    """With a status of 3xx."""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    """Before anything is answered."""
    claimed_bytes: int | None = None
    """What Content-Length says; the connection is closed after the content."""
    endless: bytes | None = None
    """Sent again and again instead of the content."""
    pause_s: float = 0.0
    """Between two pieces of what is endless."""


@dataclass
class ArchiveServer:
    """Paths and what lies there; ``requests`` are all that came, in order."""

    address: str = ""
    files: dict[str, Served] = field(default_factory=dict)
    requests: list[web.BaseRequest] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """The status of each answer that was given to its end."""
    sent_bytes: int = 0

    def put(self, path: str, content: bytes, etag: str | None = None) -> Served:
        """Let an archive lie at a path; returns how it is answered, to be changed."""
        self.files[path] = Served(content, etag)
        return self.files[path]

    def url(self, path: str, *, host: str = "127.0.0.1", user: str = "") -> str:
        """Return the address of a path."""
        return self.address.replace("127.0.0.1", user + host) + path

    def asked(self, path: str) -> int:
        """Return how often a path was asked for."""
        return sum(request.path == path for request in self.requests)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Handle one request."""
        self.requests.append(request)
        served = self.files.get(request.path, Served(status=404))
        await asyncio.sleep(served.delay_s)
        headers = dict(served.headers)
        if served.etag is not None:
            headers["ETag"] = served.etag
        if served.modified_at is not None:
            headers["Last-Modified"] = email.utils.formatdate(served.modified_at, usegmt=True)
        if served.location is not None:
            headers["Location"] = served.location
        status = 304 if served.status == 200 and self._is_unchanged(request, served) else served.status
        response = web.StreamResponse(status=status, headers=headers)
        if status == 200:
            await self._send(request, response, served)
        else:
            await response.prepare(request)
            await response.write_eof()
        self.answers.append(status)
        return response

    def _is_unchanged(self, request: web.BaseRequest, served: Served) -> bool:
        if "If-None-Match" in request.headers:
            return request.headers["If-None-Match"] == served.etag
        since = request.if_modified_since
        return since is not None and served.modified_at is not None and served.modified_at <= since.timestamp()

    async def _send(self, request: web.BaseRequest, response: web.StreamResponse, served: Served) -> None:
        if served.endless is None:
            response.content_length = len(served.content) if served.claimed_bytes is None else served.claimed_bytes
        await response.prepare(request)
        while served.endless is not None:
            await response.write(served.endless)
            self.sent_bytes += len(served.endless)
            await asyncio.sleep(served.pause_s)
        await response.write(served.content)
        self.sent_bytes += len(served.content)
        if served.claimed_bytes is not None and request.transport is not None:
            request.transport.close()
        await response.write_eof()


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[ArchiveServer]:
    """Start a server on a free port of this machine."""
    server = ArchiveServer()
    runner = web.ServerRunner(web.Server(server.answer), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        server.address = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()


def new_source(
    cache_dir: Path,
    *,
    limits: ArchiveLimits | None = None,
    allowed_paths: tuple[Path, ...] | None = None,
    network_policy: NetworkPolicy | None = None,
    download_timeout_s: float = 5.0,
    trusted_keys: tuple[str, ...] = (),
    cache_budget_bytes: int = 1 << 30,
) -> ArchiveSource:
    """A source that unpacks into ``cache_dir``."""
    return ArchiveSource(
        cache_dir,
        limits=limits or ArchiveLimits(),
        allowed_paths=allowed_paths,
        network_policy=network_policy or NetworkPolicy(),
        download_timeout_s=download_timeout_s,
        trusted_keys=trusted_keys,
        cache_budget_bytes=cache_budget_bytes,
    )


def unpacked(cache_dir: Path) -> set[str]:
    """Return the hashes of what a cache holds, and the names of whatever else lies beside its own folders."""
    return {entry.name for entry in cache_dir.iterdir()} - {"holds", "signers", "sources"}
