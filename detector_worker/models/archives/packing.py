"""Making an archive of a folder: the same files give the same bytes, whenever and wherever they are packed."""

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Final

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.archives.signatures import open_regular
from detector_worker.models.archives.zip_directory import ArchiveFault, ArchiveLimits, open_judged

__all__ = ["pack_archive"]

_CHUNK_BYTES: Final = 1 << 20
_MEND: Final = "Keep plain files and folders with plain names in it, within the limits of archives; no links."


def pack_archive(folder: Path, target: Path, limits: ArchiveLimits | None = None) -> str:
    """Pack the files below a folder; an older target is replaced at one stroke. Returns the archive's SHA-256. Blocks.

    Files are stored in the order of their names, with one date and no owner, and not compressed: weights hardly shrink,
    and each compressor writes other bytes. Empty folders, and the target itself, are left out.

    Raises:
        ModelLoadError: The folder cannot be read or holds what unpacking would refuse, or the target cannot be written.
    """
    where, limits = f"folder {folder.name!r}", limits or ArchiveLimits()
    try:
        files = _files(folder, leave_out=target)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unfinished-") as beside:
            archive = Path(beside) / target.name
            with archive.open("x+b") as file:
                _write(file, files, limits)
                open_judged(file, limits).close()
                file.seek(0)
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            archive.replace(target)
    except ArchiveFault as exc:
        raise ModelLoadError(f"The archive would be refused: it {exc}", where=where, mend=_MEND) from None
    except OSError as exc:
        raise ModelLoadError(f"The folder cannot be packed: {exc.strerror or exc}", where=where, mend=_MEND) from exc
    except ValueError as exc:
        raise ModelLoadError("The folder holds a name that is no text", where=where, mend=_MEND) from exc
    return sha256


def _files(folder: Path, *, leave_out: Path) -> dict[str, Path]:
    """Return the files by the names that they get, in their order."""
    found: dict[str, Path] = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise ArchiveFault(f"holds {path.name[:80]!r}, which is a link or a device")
        if path.is_file() and not (leave_out.exists() and path.samefile(leave_out)):
            found[path.relative_to(folder).as_posix()] = path
    if not found:
        raise ArchiveFault("holds no files")
    return dict(sorted(found.items(), key=lambda item: item[0].encode()))


def _write(file: IO[bytes], files: dict[str, Path], limits: ArchiveLimits) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, path in files.items():
            entry = zipfile.ZipInfo(name)  # of 1980, as nothing else is said
            entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            with open_regular(path, follow=False) as source:
                entry.file_size = os.fstat(source.fileno()).st_size
                if file.tell() + entry.file_size > limits.archive_bytes:
                    raise ArchiveFault(f"is larger than {limits.archive_bytes >> 20} MiB")
                with archive.open(entry, "w") as sink:
                    shutil.copyfileobj(source, sink, _CHUNK_BYTES)
