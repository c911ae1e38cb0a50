"""Where archives come from: an address or a file, fetched once for all who ask, and unpacked into the cache."""

import asyncio
import hashlib
import io
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote

from detector_worker.core.addresses import Address, NetworkPolicy
from detector_worker.core.exceptions import ConfigurationError, ModelLoadError
from detector_worker.models.archives.archive_cache import ArchiveCache, KnownSource
from detector_worker.models.archives.archive_store import COPY, ArchiveStore, FetchedArchive
from detector_worker.models.archives.download import Downloads, NotThereError, ServerUnavailableError, Validators
from detector_worker.models.archives.signatures import (
    MAX_SIGNATURE_BYTES,
    open_regular,
    read_regular,
    signature_path,
)
from detector_worker.models.archives.single_flight import SingleFlight
from detector_worker.models.archives.unpacking import ArchiveLimits, refusal

__all__ = ["ArchiveSource", "FetchedArchive"]

_SCHEMES: Final = frozenset({"http", "https", "file"})
_FILES: Final = frozenset({"file"})
_MAX_REMEMBERED: Final = 1024
_SETTLED_NS: Final = 2_000_000_000
"""A file changed less than this ago may change once more without another time stamp."""
_POLL_S: Final = 0.05
_UNSIGNED: Final = "The archive is not signed; only signed ones are opened here"


class ArchiveSource:
    """Fetches archives. For one event loop; slow work is done in its threads. Several processes may share the cache.

    Args:
        cache_dir: Made when needed; the only place that is written to.
        limits: For what is read, downloaded and unpacked.
        allowed_paths: The folders from which `fetch` may read; None: any, empty: none.
        network_policy: To where downloads may lead.
        download_timeout_s: For a download, and as long again for its signature.
        trusted_keys: Base64 of Ed25519 public keys; where there are any, only what one of them has signed is opened.
        cache_budget_bytes: What unpacked archives may take on disk; those in use always stay.

    Raises:
        ConfigurationError: The cache's folder cannot be made.
    """

    def __init__(
        self,
        cache_dir: Path,
        *,
        limits: ArchiveLimits,
        allowed_paths: Sequence[Path] | None,
        network_policy: NetworkPolicy,
        download_timeout_s: float,
        trusted_keys: Sequence[str],
        cache_budget_bytes: int,
    ) -> None:
        self._limits, self._allowed_paths, self._trusted_keys = limits, allowed_paths, tuple(trusted_keys)
        self._timeout_s = download_timeout_s
        self._downloads = Downloads(network_policy, timeout_s=download_timeout_s)
        self._flights: SingleFlight[FetchedArchive] = SingleFlight()
        self._remembered: dict[Path, tuple[tuple[int, ...], str]] = {}
        try:
            self._cache = ArchiveCache(cache_dir, budget_bytes=cache_budget_bytes)
        except OSError as exc:
            what, mend = f"The archives' folder cannot be made: {exc.strerror}", "Choose another data folder."
            raise ConfigurationError(what, where=str(cache_dir), mend=mend) from exc
        self._store = ArchiveStore(self._cache, limits, trusted_keys)

    async def fetch(self, url: str) -> FetchedArchive:
        """Get an archive by its address: http(s), ``file://`` or a path. All who ask at once share one fetch.

        A server that cannot answer just now leaves the copy that it gave before, with a warning.

        Raises:
            ModelLoadError: It cannot be had, is not signed as it must be, or is refused.
            MessageProcessingError: The address is none, or leads where the worker must not connect.
        """
        address = Address.parse(url, _SCHEMES) if "://" in url else None
        path = Path(unquote(address.path) if address else url)
        if address is not None and address.scheme not in _FILES:
            where = f"archive {path.name[:80]!r}"
            return await self._flights.join(address.secret(), lambda: self._fetch_remote(address, where))
        if not str(path).isprintable() or (found := await asyncio.to_thread(self._if_allowed, path)) is None:
            mend = "Put it into one of the folders of pipelines.allowed_paths."
            raise ModelLoadError("Archives may not be read from there", where=f"archive {path.name[:80]!r}", mend=mend)
        return await self.fetch_path(found)

    async def fetch_path(self, path: Path) -> FetchedArchive:
        """Get an archive of this machine, wherever it lies; raises as `fetch`."""
        work = partial(self._fetch_file, path, f"archive {path.name[:80]!r}")
        return await self._flights.join(str(path), lambda: _to_the_end(work))

    def _if_allowed(self, path: Path) -> Path | None:
        """Return where a path leads, where that is allowed."""
        found, folders = path.resolve(), self._allowed_paths
        return found if folders is None or any(found.is_relative_to(folder.resolve()) for folder in folders) else None

    def _fetch_file(self, path: Path, where: str) -> FetchedArchive:
        try:
            with open_regular(path) as file:
                if os.fstat(file.fileno()).st_size > self._limits.archive_bytes:
                    raise refusal(f"is larger than {self._limits.archive_bytes / (1 << 20):g} MiB", where)
                if (ready := self._store.ready(self._sha256(path, file), where)) is not None:
                    return ready
                with self._cache.unfinished() as beside:
                    self._store.copy(file, beside / COPY, where)
                    return self._store.admit(beside, self._signature_beside(path, where), where)
        except OSError as exc:
            raise refusal(f"cannot be read or unpacked: {exc.strerror or exc}", where) from exc

    def _sha256(self, path: Path, file: io.BufferedReader) -> str:
        """Return the hash of a file, from memory where the file is as it was."""
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        remembered = self._remembered.get(path)
        if remembered is not None and remembered[0] == identity:
            return remembered[1]
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[path] = (identity, sha256)
        return sha256

    def _signature_beside(self, path: Path, where: str) -> bytes:
        if not self._trusted_keys:
            return b""
        try:
            return read_regular(signature_path(path), MAX_SIGNATURE_BYTES)
        except OSError as exc:
            raise ModelLoadError(_UNSIGNED, where=where, mend="Put its .sig file beside it.") from exc

    async def _fetch_remote(self, address: Address, where: str) -> FetchedArchive:
        name = hashlib.sha256(address.secret().encode()).hexdigest()
        try:
            async with self._alone(name), self._known_copy(name, where) as known:
                try:
                    return await self._ask(address, name, known, where)
                except ServerUnavailableError as exc:
                    if known is None:
                        raise
                    when = datetime.fromtimestamp(known.source.fetched_at, UTC)
                    warning = f"{exc.what}; the copy of {when:%Y-%m-%d %H:%M} UTC is used"
                    return replace(known.fetched.share(), warnings=(warning,))
        except OSError as exc:
            raise refusal(f"cannot be kept: {exc.strerror or exc}", where) from exc

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """Let one process at a time fetch from an address, so that the others find what it got; not for ever."""
        deadline_s = time.monotonic() + 2 * self._timeout_s
        # To try takes microseconds; a thread that waits for another process's lock could not be called back.
        while (lock := self._cache.try_source_lock(name)) is None and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        with lock or nullcontext():
            yield

    @asynccontextmanager
    async def _known_copy(self, name: str, where: str) -> AsyncIterator["_Known | None"]:
        """Give what an address gave last, held, where it may still be used."""
        source = await asyncio.to_thread(self._cache.source, name)
        ready = await _to_the_end(partial(self._store.ready, source.sha256, where)) if source else None
        with ready or nullcontext():
            yield _Known(ready, source) if ready and source else None

    async def _ask(self, address: Address, name: str, known: "_Known | None", where: str) -> FetchedArchive:
        """Ask the server whether there is something new, and take it."""
        validators = Validators(known.source.etag, known.source.last_modified) if known else None
        async with self._unfinished() as beside:
            with (beside / COPY).open("xb") as file:
                max_bytes = self._limits.archive_bytes
                told = await self._downloads.fetch(address, file, part="archive", max_bytes=max_bytes, known=validators)
            if told is None and known is not None:
                return known.fetched.share()
            signature = await self._signature_at(address, where)
            work = partial(self._admit_download, beside, signature, where, name, told or Validators())
            return await _to_the_end(work)

    async def _signature_at(self, address: Address, where: str) -> bytes:
        if not self._trusted_keys:
            return b""
        path, question_mark, query = address.secret().partition("?")
        beside, content = Address.parse(f"{path}.sig{question_mark}{query}", _SCHEMES), io.BytesIO()
        try:
            await self._downloads.fetch(beside, content, part="signature", max_bytes=MAX_SIGNATURE_BYTES)
        except NotThereError as exc:
            raise ModelLoadError(_UNSIGNED, where=where, mend=f"Put its .sig file at {beside}.") from exc
        return content.getvalue()

    @asynccontextmanager
    async def _unfinished(self) -> AsyncIterator[Path]:
        with ExitStack() as undo:
            beside = undo.enter_context(self._cache.unfinished())
            try:
                yield beside
            finally:
                await asyncio.shield(asyncio.to_thread(undo.pop_all().close))

    def _admit_download(
        self, beside: Path, signature: bytes, where: str, name: str, validators: Validators
    ) -> FetchedArchive:
        with ExitStack() as undo:
            fetched = undo.enter_context(self._store.admit(beside, signature, where))
            self._cache.note_source(name, validators, fetched.sha256)
            undo.pop_all()
            return fetched


@dataclass(frozen=True, slots=True)
class _Known:
    """What an address gave last."""

    fetched: FetchedArchive
    source: KnownSource


_T = TypeVar("_T", bound=FetchedArchive | None)


async def _to_the_end(work: Callable[[], _T]) -> _T:
    """Run in a thread, to the end even when cancelled: what it works on must not go meanwhile, nor its result leak."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if running.exception() is None and (unwanted := running.result()) is not None:
            unwanted.close()
        raise
