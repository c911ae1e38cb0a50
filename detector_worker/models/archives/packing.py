"""Making an archive of a folder: the same files give the same bytes, whenever and wherever they are packed."""

import hashlib
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.archives.signatures import open_regular
from detector_worker.models.archives.zip_directory import ArchiveFault, ArchiveLimits, open_judged

__all__ = ["PackedArchive", "pack_archive"]

_CHUNK_BYTES: Final = 1 << 20
_MEND: Final = "Keep plain files and folders with plain names in it, within the limits of archives; no links."
_TEXTS: Final = frozenset({"pipeline.json", "pipeline.schema.json"})
_BESIDE: Final = ("readme", "license", "licence", "notice")
_MODELS: Final = frozenset({".onnx", ".xml", ".bin", ".pt"})
_SAMPLES: Final = "samples"
_PICTURES: Final = frozenset({".jpg", ".jpeg", ".png"})
_KEY_MARK: Final = b"PRIVATE KEY-----"
_KEY_WITHIN_BYTES: Final = 4 << 10


@dataclass(frozen=True, slots=True)
class PackedArchive:
    """What became of a folder."""

    sha256: str
    left_out: tuple[str, ...]
    """Hidden files and folders, and files that no archive needs: paths within the folder, in their order."""


def pack_archive(folder: Path, target: Path, limits: ArchiveLimits | None = None) -> PackedArchive:
    """Pack what belongs into an archive; an older target is replaced at one stroke. Blocks.

    That is ``pipeline.json`` and its schema, a README, model files, and pictures in a folder ``samples``. Files are
    stored in the order of their names, with one date and no owner, and not compressed: weights hardly shrink, and each
    compressor writes other bytes. Empty folders are not stored.

    Raises:
        ModelLoadError: The folder cannot be read, holds a private key or what unpacking would refuse, or the target
            cannot be written or lies within the folder.
    """
    where, limits = f"folder {folder.name!r}", limits or ArchiveLimits()
    if target.resolve().is_relative_to(folder.resolve()):
        mend = "Name a place outside of it with --output."
        raise ModelLoadError("The archive would lie in the folder that is packed", where=where, mend=mend)
    try:
        files, left_out = _sorted_out(folder, where)
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
    return PackedArchive(sha256, left_out)


def _sorted_out(folder: Path, where: str) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the files by the names that they get, in their order, and what is left out."""
    found, left_out = dict[str, Path](), list[str]()
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith("."):
            left_out.append(f"{name}/" if path.is_dir() else name)
            continue
        if path.is_symlink() or not path.is_file():
            raise ArchiveFault(f"holds {path.name[:80]!r}, which is a link or a device")
        _refuse_key(path, name, where)
        if _belongs(path):
            found[name] = path
        else:
            left_out.append(name)
    if not found:
        raise ArchiveFault("holds no files")
    return dict(sorted(found.items(), key=lambda item: item[0].encode())), tuple(sorted(left_out))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all but folders, except that a hidden folder stands for what is in it."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            yield from _walk(path)
        else:
            yield path


def _belongs(path: Path) -> bool:
    name, suffix = path.name.casefold(), path.suffix.casefold()
    is_sample = path.parent.name == _SAMPLES and suffix in _PICTURES
    # A model's licence often has to travel with it.
    return name in _TEXTS or name.startswith(_BESIDE) or suffix in _MODELS or is_sample


def _refuse_key(path: Path, name: str, where: str) -> None:
    """Whether or not it would be packed: a folder that is handed on is no place for a key."""
    with open_regular(path, follow=False) as file:
        if _KEY_MARK in file.read(_KEY_WITHIN_BYTES):
            mend = "Keep it elsewhere, and make a new one if the folder was handed on."
            raise ModelLoadError(f"The folder holds a private key: {name[:200]!r}", where=where, mend=mend)


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
