"""Opening an archive that anybody may have made.

Its directory is judged before the first byte is inflated, what is inflated is counted, and only a complete folder,
named by the archive's hash, ever appears in the cache.
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
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, Final

from detector_worker.core.exceptions import ModelLoadError

__all__ = ["TEMPORARY", "ArchiveLimits", "extract_archive", "remove_leftovers"]

TEMPORARY: Final = ".unfinished-"
"""How the names of unfinished files and folders in the cache begin."""
_MIB: Final = 1 << 20
_LOCAL_HEADER_BYTES: Final = 30
_LEFTOVER_AGE_S: Final = 3600.0
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may cost."""

    archive_bytes: int = 1024 * _MIB
    inflated_bytes: int = 2048 * _MIB
    entries: int = 1000
    ratio: float = 200.0
    """Inflated to packed bytes of an entry above 1 MiB; weights hardly shrink at all."""


def extract_archive(path: Path, cache_dir: Path, limits: ArchiveLimits, *, where: str) -> Path:
    """Unpack an archive, or find it unpacked: returns ``cache_dir/<sha256>``. Blocks.

    Raises:
        ModelLoadError: It is missing, no ZIP, or refused; nothing has been left behind.
    """
    try:
        if not path.is_file():
            raise _refusal("is no file or does not exist", where)
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > limits.archive_bytes:
                raise _refusal(f"is larger than {limits.archive_bytes / _MIB:g} MiB", where)
            folder = cache_dir / hashlib.file_digest(file, "sha256").hexdigest()
            if not folder.is_dir():
                _extract(file, folder, limits, where)
            return folder
    except OSError as exc:
        raise _refusal(f"cannot be read or unpacked: {exc.strerror or type(exc).__name__}", where) from exc
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError, EOFError, zlib.error) as exc:
        raise _refusal("is no ZIP archive, or a damaged one", where) from exc


def remove_leftovers(cache_dir: Path) -> None:
    """Delete what killed processes left unfinished; what is younger may be at work."""
    for left in cache_dir.glob(f"{TEMPORARY}*"):
        if time.time() - left.stat().st_mtime > _LEFTOVER_AGE_S:
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def _extract(file: IO[bytes], folder: Path, limits: ArchiveLimits, where: str) -> None:
    """Check, unpack beside the target, and rename, so that the target is complete or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file) as archive, tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=folder.parent) as beside:
        _check_directory(archive, limits, where)
        files = Path(beside) / "files"
        files.mkdir()
        for entry in archive.infolist():
            target = files / entry.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            if not entry.is_dir():
                # zipfile inflates no more than the size that was judged, then compares the checksum.
                with archive.open(entry) as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink, _MIB)
                    sink.flush()
                    os.fsync(sink.fileno())
        try:
            files.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster with the same bytes
                raise


def _check_directory(archive: zipfile.ZipFile, limits: ArchiveLimits, where: str) -> None:
    """Refuse the whole archive for the first thing that is wrong with any entry."""
    entries = archive.infolist()
    if len(entries) > limits.entries:
        raise _refusal(f"has {len(entries)} entries, more than {limits.entries}", where)
    if sum(entry.file_size for entry in entries) > limits.inflated_bytes:
        raise _refusal(f"would inflate to more than {limits.inflated_bytes / _MIB:g} MiB", where)
    seen: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        # One name for whatever some file system takes for the same.
        name = unicodedata.normalize("NFC", entry.filename.rstrip("/")).casefold()
        fault = "has a name that occurs twice, perhaps in other case" if name in seen else _entry_fault(entry, limits)
        if fault is not None:
            raise _refusal(f"holds {entry.orig_filename[:80]!r}, which {fault}", where)
        seen[name] = entry
    parents = {str(parent) for name in seen for parent in PurePosixPath(name).parents}
    if any(name in parents and not entry.is_dir() for name, entry in seen.items()):
        raise _refusal("uses one name for a file and a folder", where)
    # Entries that share bytes would let a small archive inflate one block a thousand times.
    spans = [(one.header_offset, one.header_offset + _LOCAL_HEADER_BYTES + one.compress_size) for one in entries]
    if any(end > start for (_, end), (start, _) in pairwise([*sorted(spans), (archive.start_dir, 0)])):
        raise _refusal("has entries that overlap", where)


def _entry_fault(entry: zipfile.ZipInfo, limits: ArchiveLimits) -> str | None:
    """Say why an entry is refused; None where it is a plain file or folder that stays inside on every system."""
    name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
    parts = name.removesuffix("/").split("/")
    faults = {
        "has too long or an unprintable name": len(name) > 240 or not name.isprintable(),
        "has a name that leads elsewhere": "\\" in name or ":" in name or not {"", ".", ".."}.isdisjoint(parts),
        "is a link or a device": kind not in {0, stat.S_IFREG, stat.S_IFDIR},
        "is encrypted": entry.flag_bits & 0x1,
        "is packed by a method other than deflate": entry.compress_type not in _METHODS,
        f"inflates more than {limits.ratio:g} times": entry.file_size > max(_MIB, limits.ratio * entry.compress_size),
    }
    return next((fault for fault, is_so in faults.items() if is_so), None)


def _refusal(what: str, where: str) -> ModelLoadError:
    mend = "Give the path of a ZIP archive with pipeline.json and the model files only, and room in the data folder."
    return ModelLoadError(f"The archive {what}", where=where, mend=mend)
