"""What has arrived becomes an archive in the cache: copied, verified, unpacked; or one that is there already is found.

Whatever is verified, hashed or unpacked is a copy of our own, so that nobody changes it in between.
"""

import hashlib
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final, Self

from detector_worker.models.archives.archive_cache import ArchiveCache, Hold
from detector_worker.models.archives.signatures import verify
from detector_worker.models.archives.unpacking import ArchiveLimits, refusal, unpack_archive

__all__ = ["COPY", "ArchiveStore", "FetchedArchive"]

COPY: Final = "archive"
"""The name of our own copy of an archive's bytes in a folder of unfinished work."""
_CHUNK_BYTES: Final = 1 << 20
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FetchedArchive:
    """An archive in the cache. It stays there, whichever process tidies up, until this is closed."""

    folder: Path
    """Unpacked, complete."""
    sha256: str
    """Of the archive's bytes."""
    warnings: tuple[str, ...]
    where: str
    """What errors about it name."""
    hold: Hold

    def share(self) -> Self:
        """Return another one of the same, to be closed by itself."""
        return replace(self, hold=self.hold.share())

    def close(self) -> None:
        """Let it go; a second time does nothing."""
        self.hold.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class ArchiveStore:
    """Turns bytes into archives of the cache. Thread-safe; every method may block, and raise OSError."""

    def __init__(self, cache: ArchiveCache, limits: ArchiveLimits, trusted_keys: Sequence[str]) -> None:
        self._cache, self._limits, self._trusted_keys = cache, limits, tuple(trusted_keys)

    def ready(self, sha256: str, where: str) -> FetchedArchive | None:
        """Return an archive that is unpacked already and, where that matters, was signed by a key trusted now.

        That a key has verified these bytes stays true without their signature, and who could write into the cache could
        change what is unpacked as well; so the bytes themselves need not be kept.
        """
        hold = self._cache.hold(sha256)
        if self._cache.path(sha256).is_dir() and self._is_trusted(sha256):
            return FetchedArchive(self._cache.path(sha256), sha256, (), where, hold)
        hold.close()
        return None

    def copy(self, file: BinaryIO, target: Path, where: str) -> None:
        """Make a copy of our own; the file may grow meanwhile."""
        file.seek(0)
        with target.open("xb") as sink:
            while chunk := file.read(_CHUNK_BYTES):
                sink.write(chunk)
                if sink.tell() > self._limits.archive_bytes:
                    raise refusal("grows while it is read", where)

    def admit(self, beside: Path, signature: bytes, where: str) -> FetchedArchive:
        """Verify and unpack the copy that lies in a folder of our own; ModelLoadError: it is refused."""
        copy, files = beside / COPY, beside / "files"
        with copy.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with ExitStack() as undo:
            hold = undo.enter_context(self._cache.hold(sha256))
            if not self._is_trusted(sha256):
                self._cache.note_signer(sha256, verify(copy, signature, self._trusted_keys, where=where))
            if not self._cache.path(sha256).is_dir():
                unpack_archive(copy, files, self._limits, where=where)
                self._cache.admit(files, sha256)
                self._prune()
            undo.pop_all()
            return FetchedArchive(self._cache.path(sha256), sha256, (), where, hold)

    def _is_trusted(self, sha256: str) -> bool:
        return not self._trusted_keys or self._cache.is_signed(sha256, self._trusted_keys)

    def _prune(self) -> None:
        try:
            self._cache.prune()
        except OSError as exc:
            _LOG.warning("The folder of archives cannot be tidied up: %s", exc.strerror or exc)
