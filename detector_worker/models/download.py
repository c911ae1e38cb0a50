"""Fetching an archive over HTTP, within bounds, from where the worker may."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final
from urllib.parse import unquote

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from detector_worker.core.addresses import Address, NetworkPolicy, resolve_and_check
from detector_worker.core.exceptions import ModelLoadError

__all__ = ["Downloader", "local_path"]

_SCHEMES: Final = frozenset({"http", "https", "file"})
_CHUNK_BYTES: Final = 1 << 20


def local_path(url: str) -> Path | None:
    """Return the path that a ``file://`` address or a plain path means; None for an address of the network.

    Raises:
        MessageProcessingError: It is an address, but none that the worker reads archives from.
        ModelLoadError: No file can have this name.
    """
    text = url
    if "://" in url:
        address = Address.parse(url, _SCHEMES)
        if address.scheme != "file":
            return None
        text = unquote(address.path)
    if not text or not text.isprintable():
        raise ModelLoadError("No file can have this name", where="archive", mend="Give the path of an .mpta archive.")
    return Path(text)


class Downloader:
    """Downloads into temporary files that are gone afterwards. Redirects are not followed."""

    def __init__(self, policy: NetworkPolicy, *, max_bytes: int, timeout_s: float, folder: Path) -> None:
        self._policy, self._max_bytes, self._timeout_s, self._folder = policy, max_bytes, timeout_s, folder

    @asynccontextmanager
    async def download(self, url: str) -> AsyncIterator[tuple[Path, str]]:
        """Yield the downloaded file and the archive's own name.

        Raises:
            ModelLoadError: It cannot be had, or is too large or too slow.
            MessageProcessingError: The address leads where the worker must not connect.
        """
        address = Address.parse(url, _SCHEMES)
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".download-") as file:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._fetch(address, file)
            except TimeoutError as exc:
                what = f"The archive did not arrive within {self._timeout_s:g} s"
                raise _failure(what, address, "Check the server, or raise pipelines.download_timeout_seconds.") from exc
            except (aiohttp.ClientError, OSError) as exc:
                what = f"The archive cannot be downloaded ({type(exc).__name__})"
                raise _failure(what, address, "Check the address and that its server is up.") from exc
            file.flush()
            yield Path(file.name), address.path.rpartition("/")[2] or address.host

    async def _fetch(self, address: Address, file: IO[bytes]) -> None:
        checked = await asyncio.to_thread(resolve_and_check, address, self._policy)
        connector = aiohttp.TCPConnector(resolver=_CheckedResolver(checked), force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, auto_decompress=False, trust_env=False) as session,
            session.get(address.secret(), allow_redirects=False) as response,
        ):
            if response.status != 200:
                what = f"The server answered {response.status} instead of the archive"
                raise _failure(what, address, "Give the archive's own address; redirects are not followed.")
            received = 0
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                received += len(chunk)
                if received > self._max_bytes:
                    what = f"The archive is larger than {self._max_bytes >> 20} MiB"
                    raise _failure(what, address, "Make it smaller, or raise pipelines.max_archive_bytes.")
                await asyncio.to_thread(file.write, chunk)


class _CheckedResolver(AbstractResolver):
    """Answers with addresses that were checked before, so that no second look-up can give others."""

    def __init__(self, checked: tuple[str, ...]) -> None:
        self._checked = checked

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:  # noqa: ARG002 - aiohttp's
        return [
            ResolveResult(hostname=host, host=ip, port=port, family=_family(ip), proto=0, flags=0)
            for ip in self._checked
        ]

    async def close(self) -> None:
        """Nothing is held."""


def _family(ip: str) -> int:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def _failure(what: str, address: Address, mend: str) -> ModelLoadError:
    return ModelLoadError(what, where=str(address), mend=mend)
