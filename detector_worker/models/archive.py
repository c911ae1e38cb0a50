"""Opening an archive that anybody may have made.

Everything is judged by the archive's directory before the first byte is inflated; what is inflated is counted as
it comes; and only a complete folder, named by the archive's hash, ever appears in the cache.
"""

import hashlib
import os
import shutil
import stat
import tempfile
import time
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from detector_worker.core.exceptions import ModelLoadError

__all__ = ["ArchiveLimits", "ExtractedArchive", "extract_archive", "remove_leftovers"]

MIB: Final = 1 << 20
_CHUNK_BYTES: Final = MIB
_LOCAL_HEADER_BYTES: Final = 30
_UTF8_NAME: Final = 0x800
_RATIO_FLOOR_BYTES: Final = MIB
_LEFTOVER_AGE_S: Final = 3600.0
_TEMPORARY: Final = ".extracting-"


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may cost."""

    archive_bytes: int = 1024 * MIB
    inflated_bytes: int = 2048 * MIB
    entries: int = 1000
    ratio: float = 200.0
    """Inflated to packed bytes of one entry above 1 MiB; weights hardly shrink at all."""


@dataclass(frozen=True, slots=True)
class ExtractedArchive:
    """An archive's files in the cache."""

    folder: Path
    sha256: str


def extract_archive(path: Path, cache_dir: Path, limits: ArchiveLimits) -> ExtractedArchive:
    """Unpack an archive into ``cache_dir/<sha256>``, or find it there. Blocks.

    Raises:
        ModelLoadError: It is missing, no ZIP, or refused; nothing has been left behind.
    """
    where = f"archive {path.name}"
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refusal("is no file", where)
            if os.fstat(file.fileno()).st_size > limits.archive_bytes:
                raise _refusal(f"is larger than {limits.archive_bytes / MIB:g} MiB", where)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            folder = cache_dir / sha256
            if not folder.is_dir():
                _extract(file, folder, limits, where)
    except OSError as exc:
        raise ModelLoadError(
            f"The archive cannot be read or unpacked: {exc.strerror or type(exc).__name__}",
            where=where,
            mend="Check that the file exists, that the worker may read it, and that the data folder has room.",
        ) from exc
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError, EOFError, zlib.error) as exc:
        raise ModelLoadError(
            "The archive is no ZIP archive, or a damaged one", where=where, mend="Pack it again as a ZIP archive."
        ) from exc
    return ExtractedArchive(folder, sha256)


def remove_leftovers(cache_dir: Path) -> None:
    """Delete what a killed process left half unpacked; younger folders may be at work."""
    for folder in cache_dir.glob(f"{_TEMPORARY}*"):
        if time.time() - folder.stat().st_mtime > _LEFTOVER_AGE_S:
            shutil.rmtree(folder, ignore_errors=True)


def _extract(file: IO[bytes], folder: Path, limits: ArchiveLimits, where: str) -> None:
    """Check, unpack beside the target, and rename, so that the target is complete or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        _check_directory(archive, limits, where)
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder.parent))
        try:
            left = limits.inflated_bytes
            for entry in entries:
                left -= _write_entry(archive, entry, temporary / entry.filename, left, where)
            try:
                temporary.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster with the same bytes
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _write_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, left: int, where: str) -> int:
    """Inflate one entry into a new file; returns its size."""
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(entry) as source, target.open("xb") as sink:
        while chunk := source.read(_CHUNK_BYTES):
            written += len(chunk)
            if written > min(left, entry.file_size):
                raise _refusal("inflates to more than it says or may", where)
            sink.write(chunk)
        sink.flush()
        os.fsync(sink.fileno())
    return written


def _check_directory(archive: zipfile.ZipFile, limits: ArchiveLimits, where: str) -> None:
    """Refuse the whole archive for the first thing that is wrong with any entry."""
    entries = archive.infolist()
    if len(entries) > limits.entries:
        raise _refusal(f"has {len(entries)} entries, more than {limits.entries}", where)
    if sum(entry.file_size for entry in entries) > limits.inflated_bytes:
        raise _refusal(f"would inflate to more than {limits.inflated_bytes / MIB:g} MiB", where)
    seen: set[str] = set()
    for entry in entries:
        fault = _name_fault(entry.orig_filename) or _kind_fault(entry, limits)
        name = _folded(entry.filename.rstrip("/"))
        if fault is None and name in seen:
            fault = "has a name that occurs twice, perhaps in other case"
        if fault is not None:
            raise _refusal(f"holds {entry.orig_filename[:80]!r}, which {fault}", where)
        seen.add(name)
    files = {_folded(entry.filename) for entry in entries if not entry.is_dir()}
    if any(str(parent) in files for name in seen for parent in PurePosixPath(name).parents):
        raise _refusal("uses one name for a file and a folder", where)
    _check_overlap(entries, archive, where)


def _check_overlap(entries: list[zipfile.ZipInfo], archive: zipfile.ZipFile, where: str) -> None:
    """Refuse entries that share bytes: a small archive could inflate one block a thousand times."""
    ends_at = 0
    for entry in sorted(entries, key=lambda one: one.header_offset):
        if entry.header_offset < ends_at:
            raise _refusal("has entries that overlap", where)
        name = entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8_NAME else "cp437")
        ends_at = entry.header_offset + _LOCAL_HEADER_BYTES + len(name) + entry.compress_size
    if ends_at > archive.start_dir:
        raise _refusal("has entries that overlap its directory", where)


def _name_fault(name: str) -> str | None:
    """Say why a name is refused; None where it stays inside the folder on every system."""
    if not name or len(name) > 240 or any(ord(char) < 32 or ord(char) == 127 for char in name):
        return "has an empty, too long or unprintable name"
    if name.startswith("/") or "\\" in name or ":" in name:
        return "has an absolute name, or one with a drive or a backslash"
    if any(part in {"", ".", ".."} for part in name.removesuffix("/").split("/")):
        return "has a name that leads elsewhere"
    return None


def _kind_fault(entry: zipfile.ZipInfo, limits: ArchiveLimits) -> str | None:
    """Say why what an entry is, rather than its name, is refused."""
    if stat.S_IFMT(entry.external_attr >> 16) not in {0, stat.S_IFREG, stat.S_IFDIR}:
        return "is a link or a device"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        return "is packed by a method other than deflate"
    if entry.file_size > max(_RATIO_FLOOR_BYTES, limits.ratio * entry.compress_size):
        return f"would inflate more than {limits.ratio:g} times"
    return None


def _folded(name: str) -> str:
    """What two names have in common that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _refusal(what: str, where: str) -> ModelLoadError:
    return ModelLoadError(
        f"The archive {what}", where=where, mend="Pack it again, with pipeline.json and the model files only."
    )
