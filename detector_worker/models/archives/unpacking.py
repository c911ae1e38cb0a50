"""Opening an archive that anybody may have made: judged by its directory, then inflated, counted and checked."""

import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Final

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.archives.zip_directory import ArchiveFault, ArchiveLimits, open_judged

__all__ = ["ArchiveLimits", "refusal", "unpack_archive"]

_CHUNK_BYTES: Final = 1 << 20


def unpack_archive(path: Path, folder: Path, limits: ArchiveLimits, *, where: str) -> None:
    """Unpack into a folder that does not exist yet. Blocks.

    The file must be one that nobody changes meanwhile. A failure may leave part of the folder, nothing outside of it.

    Raises:
        ModelLoadError: It cannot be read, is no ZIP archive, or is refused.
    """
    try:
        with path.open("rb") as file, open_judged(file, limits) as archive:
            folder.mkdir()
            for entry in archive.infolist():
                _unpack_entry(archive, entry, folder)
    except ArchiveFault as exc:
        raise refusal(str(exc), where) from None
    except OSError as exc:
        raise refusal(f"cannot be read or unpacked: {exc.strerror or type(exc).__name__}", where) from exc
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError, EOFError) as exc:
        raise refusal("is no ZIP archive, or a damaged one", where) from exc
    except (struct.error, zlib.error) as exc:
        raise refusal("is a damaged ZIP archive", where) from exc


def refusal(what: str, where: str) -> ModelLoadError:
    """Return the error for an archive of which ``what`` tells the fault."""
    mend = "Give the path of a ZIP archive with pipeline.json and the model files only, and room in the data folder."
    return ModelLoadError(f"The archive {what}", where=where, mend=mend)


def _unpack_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    """Write one entry as an ordinary file: what the archive says of owners and permissions is not taken over."""
    target = folder / entry.orig_filename
    (target if entry.is_dir() else target.parent).mkdir(parents=True, exist_ok=True)
    if not entry.is_dir():
        # zipfile inflates no more than the size that was judged, then compares the checksum.
        with archive.open(entry) as source, target.open("xb") as sink:
            _copy(source, sink)
            if sink.tell() != entry.file_size:
                raise ArchiveFault(f"holds {entry.orig_filename[:80]!r}, which is shorter than it says")


def _copy(source: IO[bytes], sink: IO[bytes]) -> None:
    shutil.copyfileobj(source, sink, _CHUNK_BYTES)
    sink.flush()
    os.fsync(sink.fileno())
