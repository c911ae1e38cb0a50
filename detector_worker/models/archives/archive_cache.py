"""The folder of unpacked archives, shared by processes: what lies there is complete, and stays while anybody holds it.

::

    <sha256>/              an unpacked archive
    .unfinished-*/         work of a process that lives, or what one that was killed left
    holds/<sha256>         locked, shared, by whoever uses the archive
    signers/<sha256>       the keys that have verified the archive's bytes
    sources/<sha256>.json  what an address gave last; named by the hash of the address, which may hold credentials
    sources/<sha256>.lock  locked by whoever is just fetching from there
"""

import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from detector_worker.models.archives.download import Validators
from detector_worker.models.kept_files import write_atomically

__all__ = ["ArchiveCache", "Hold", "KnownSource"]

_UNFINISHED: Final = ".unfinished-"
_SHA256: Final = re.compile("[0-9a-f]{64}")
_LEFT_ALONE_S: Final = 60.0
"""A folder this young may not have been locked yet by who makes it."""
_KEYS: Final = TypeAdapter(list[str])
_HEADER: Final = re.compile(r"[\x20-\x7e]{1,512}")
_Header = Annotated[str, Field(pattern=f"^{_HEADER.pattern}$")]


class KnownSource(BaseModel):
    """What an address gave last, and what its server will compare."""

    model_config = ConfigDict(frozen=True, strict=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    etag: _Header | None = None
    last_modified: _Header | None = None
    fetched_at: Annotated[float, Field(ge=0, lt=1e11)]
    """Seconds since the epoch."""


class Hold:
    """Keeps a file locked, shared or alone, until it is closed; the system gives it back when the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def share(self) -> "Hold":
        """Return another one of the same; the lock is given back when all are closed."""
        assert self._descriptor is not None
        return Hold(os.dup(self._descriptor))

    def close(self) -> None:
        """Give the lock back; a second time does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class ArchiveCache:
    """One process's view of the folder. Thread-safe; every method may block on the disk and raise OSError."""

    def __init__(self, folder: Path, *, budget_bytes: int) -> None:
        self._folder, self._budget_bytes = folder, budget_bytes
        self._holds, self._signers, self._sources = (folder / name for name in ("holds", "signers", "sources"))
        for path in (self._holds, self._signers, self._sources):
            path.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()

    def path(self, sha256: str) -> Path:
        """Return where an archive lies, or would lie, unpacked."""
        return self._folder / sha256

    def hold(self, sha256: str) -> Hold:
        """Keep an archive, unpacked or about to be, and note that it is used; waits while it is just being removed."""
        hold = _lock(self._holds / sha256, fcntl.LOCK_SH)
        if (folder := self.path(sha256)).is_dir():
            os.utime(folder)
        return hold

    @contextmanager
    def unfinished(self) -> Iterator[Path]:
        """Give a folder for work of this process, which is gone afterwards."""
        folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._folder))
        try:
            with _flock(_open_folder(folder), fcntl.LOCK_EX):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what is left is removed as a leftover

    def admit(self, files: Path, sha256: str) -> None:
        """Take over a folder that is complete; another process may have been faster with the same bytes."""
        try:
            files.rename(self.path(sha256))
        except OSError:
            if not self.path(sha256).is_dir():
                raise

    def is_signed(self, sha256: str, keys: Collection[str]) -> bool:
        """True if one of these keys has verified the bytes of an archive."""
        try:
            noted = _KEYS.validate_json((self._signers / sha256).read_bytes())
        except (OSError, ValidationError):
            return False
        return not set(keys).isdisjoint(noted)

    def note_signer(self, sha256: str, key: str) -> None:
        """Keep that a key has verified the bytes of an archive."""
        write_atomically(self._signers / sha256, _KEYS.dump_json([key]))

    def source(self, name: str) -> KnownSource | None:
        """Return what is known of an address; None where that is nothing, or damaged."""
        try:
            return KnownSource.model_validate_json((self._sources / f"{name}.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def note_source(self, name: str, validators: Validators, sha256: str) -> None:
        """Keep what an address gave just now."""
        etag, last_modified = _bounded(validators.etag), _bounded(validators.last_modified)
        known = KnownSource(sha256=sha256, etag=etag, last_modified=last_modified, fetched_at=time.time())
        write_atomically(self._sources / f"{name}.json", known.model_dump_json().encode())

    def try_source_lock(self, name: str) -> Hold | None:
        """Become the only one who fetches from an address; None while another is."""
        return _try_lock(self._sources / f"{name}.lock")

    def prune(self) -> None:
        """Remove what was used longest ago until the rest fits; what anybody holds stays, and counts."""
        found = [path for path in self._folder.iterdir() if _SHA256.fullmatch(path.name)]
        used_at, sizes = {path: _mtime_s(path) for path in found}, {path: _size_bytes(path) for path in found}
        excess_bytes = sum(sizes.values()) - self._budget_bytes
        for path in sorted(found, key=used_at.__getitem__):
            if excess_bytes > 0 and self._remove(path):
                excess_bytes -= sizes[path]
        for entry in self._sources.glob("*.json"):
            known = self.source(entry.stem)
            if known is None or not self.path(known.sha256).is_dir():
                self._forget_source(entry)

    def _remove(self, path: Path) -> bool:
        hold = _try_lock(self._holds / path.name)
        if hold is None:
            return False
        with hold, self.unfinished() as beside:
            (self._signers / path.name).unlink(missing_ok=True)
            if path.is_dir():  # else another process has just removed it
                path.rename(beside / "removed")  # at one stroke: nobody ever sees half of it
            (self._holds / path.name).unlink()
        return True

    def _forget_source(self, entry: Path) -> None:
        lock = entry.with_suffix(".lock")
        if hold := _try_lock(lock):
            with hold:
                entry.unlink(missing_ok=True)
                lock.unlink()

    def _remove_leftovers(self) -> None:
        for left in self._folder.glob(f"{_UNFINISHED}*"):
            if time.time() - _mtime_s(left) > _LEFT_ALONE_S:
                with suppress(OSError), _flock(_open_folder(left), fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(left, ignore_errors=True)


def _lock(path: Path, how: int) -> Hold:
    """Lock a file; BlockingIOError: it is locked. Whoever held it alone may have removed it: then it is made again."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        hold = _flock(descriptor, how)
        if os.fstat(descriptor).st_nlink:
            return hold
        hold.close()


def _try_lock(path: Path) -> Hold | None:
    try:
        return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def _flock(descriptor: int, how: int) -> Hold:
    hold = Hold(descriptor)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        hold.close()
        raise
    return hold


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _bounded(header: str | None) -> str | None:
    """Return what may be kept and sent back; a server that tells odd things is asked without condition."""
    return header if header is not None and _HEADER.fullmatch(header) else None


def _mtime_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another process has just removed it
        return time.time()


def _size_bytes(folder: Path) -> int:
    """Return what a folder takes on disk."""
    total = 0
    for path in (folder, *folder.rglob("*")):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:  # another process has just removed it
            continue
    return total
