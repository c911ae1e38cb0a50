"""The directory of a ZIP archive, judged before anything of it is inflated.

ZIP says most things twice and lets each reader choose whom to believe; what one program checks, another then unpacks
otherwise. So here both must agree, and every byte of the file belongs to one entry or to the directory.
"""

import stat
import struct
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Final

__all__ = ["ArchiveFault", "ArchiveLimits", "open_judged"]

_MIB: Final = 1 << 20
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_END: Final = struct.Struct("<4s4H2LH")  # the end of central directory record; APPNOTE.TXT 6.3.10, 4.3.16
_LOCAL: Final = struct.Struct("<4s5H3L2H")  # a local file header; 4.3.7
_ZIP64_LOCATOR_BYTES: Final = 20
_RECORD_BYTES: Final = 1024
"""Of an entry's record in the directory, at most, on average: 46, a name, and a few time stamps."""
_IN_DESCRIPTOR: Final = 0x8
_IS_UTF8: Final = 0x800
_UNKNOWN: Final = 0xFFFFFFFF
_DESCRIPTOR_BYTES: Final = frozenset({12, 16, 20, 24})  # with and without signature and ZIP64; 4.3.9
_SECOND_NAME: Final = 0x7075  # Info-ZIP's Unicode path; 4.6.9
_MAX_NAME_BYTES: Final = 240
_MAX_DEPTH: Final = 8
_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in "0123456789\u00b9\u00b2\u00b3"}
)


class ArchiveFault(Exception):  # noqa: N818 - it becomes a ModelLoadError where it is known which archive it is
    """Why an archive is refused; the text goes on from "The archive"."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may cost."""

    archive_bytes: int = 1024 * _MIB
    inflated_bytes: int = 2048 * _MIB
    entries: int = 1000
    ratio: float = 200.0
    """Inflated to packed bytes of an entry above 1 MiB, and of all together; weights hardly shrink at all."""


def open_judged(file: IO[bytes], limits: ArchiveLimits) -> zipfile.ZipFile:
    """Open an archive every entry of which may be unpacked; nothing has been inflated yet.

    Raises:
        ArchiveFault: Something is wrong with any entry.
        zipfile.BadZipFile, ValueError, NotImplementedError, struct.error: The directory cannot be read.
    """
    start, size, count = _judge_end(file, limits)
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    if len(entries) != count:
        raise ArchiveFault(f"says it has {count} entries and has {len(entries)}")
    total = sum(entry.file_size for entry in entries)
    if total > limits.inflated_bytes:
        raise ArchiveFault(f"would inflate to more than {limits.inflated_bytes / _MIB:g} MiB")
    if total > max(16 * _MIB, limits.ratio * size):
        raise ArchiveFault(f"would inflate more than {limits.ratio:g} times as a whole")
    _judge_names(entries)
    for entry in entries:
        if fault := next(_entry_faults(entry, limits), None):
            raise ArchiveFault(f"holds {entry.orig_filename[:80]!r}, which {fault}")
    _judge_layout(file, entries, start)
    return archive


def _judge_end(file: IO[bytes], limits: ArchiveLimits) -> tuple[int, int, int]:
    """Return where the directory begins, the size of the file, and the number of entries; the directory is bounded."""
    size = file.seek(0, 2)
    tail_bytes = min(size, _ZIP64_LOCATOR_BYTES + _END.size)
    file.seek(-tail_bytes, 2)
    tail = file.read(tail_bytes)
    if len(tail) < _END.size or not tail[-_END.size :].startswith(b"PK\5\6"):
        raise ArchiveFault("is no ZIP archive, or is cut, or has a comment or other bytes behind its directory")
    _, disk, first_disk, count_here, count, length, start, comment_bytes = _END.unpack(tail[-_END.size :])
    if disk or first_disk or count_here != count or comment_bytes:
        raise ArchiveFault("is one part of several, or cut")
    if tail.startswith(b"PK\6\7") or _UNKNOWN in {start, length}:
        raise ArchiveFault("is of the ZIP64 kind, which nothing of its size needs")
    if count > limits.entries:
        raise ArchiveFault(f"has {count} entries, more than {limits.entries}")
    if length > count * _RECORD_BYTES:
        raise ArchiveFault("has a directory that is too large for its entries")
    if start + length + _END.size != size:
        raise ArchiveFault("holds bytes that belong to no entry, or is cut")
    return start, size, count


def _judge_names(entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse what some file system takes for the same name, or for a file and a folder of one name."""
    seen: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        folded = unicodedata.normalize("NFKC", entry.orig_filename.rstrip("/")).casefold()
        name = unicodedata.normalize("NFKC", folded)
        if name in seen:
            told = entry.orig_filename[:80]
            raise ArchiveFault(f"holds {told!r}, which has a name that occurs twice, perhaps in other case")
        seen[name] = entry
    parents = {str(parent) for name in seen for parent in PurePosixPath(name).parents}
    if any(name in parents and not entry.is_dir() for name, entry in seen.items()):
        raise ArchiveFault("uses one name for a file and a folder")


def _entry_faults(entry: zipfile.ZipInfo, limits: ArchiveLimits) -> Iterator[str]:
    """Say why an entry is refused; nothing where it is a plain file or folder that stays inside on every system."""
    name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
    parts = name.removesuffix("/").split("/")
    if not name.isprintable() or len(name.encode()) > _MAX_NAME_BYTES or len(parts) > _MAX_DEPTH:
        yield "has too long, too deep or an unprintable name"
    if "\\" in name or ":" in name or any(_leads_elsewhere(part) for part in parts):
        yield "has a name that leads elsewhere, here or on another system"
    if entry.filename != name or _SECOND_NAME in _extra_kinds(entry.extra):
        yield "has a second name in an extra field"
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR} or (kind == stat.S_IFDIR) > entry.is_dir():
        yield "is a link or a device"
    if entry.is_dir() and entry.file_size:
        yield "is a folder with content"
    if entry.flag_bits & 0x2061:  # encrypted, patched, strongly encrypted, masked
        yield "is encrypted"
    if entry.compress_type not in _METHODS:
        yield "is packed by a method other than deflate"
    if entry.file_size > max(_MIB, limits.ratio * entry.compress_size):
        yield f"inflates more than {limits.ratio:g} times"


def _leads_elsewhere(part: str) -> bool:
    """True for what is no plain name: empty, dots, and what Windows turns into another name or a device."""
    return not part or part[-1] in ". " or part.split(".", 1)[0].rstrip().casefold() in _DEVICES


def _extra_kinds(extra: bytes) -> set[int]:
    kinds, at = set(), 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        kinds.add(kind)
        at += 4 + length
    return kinds


def _judge_layout(file: IO[bytes], entries: Sequence[zipfile.ZipInfo], directory_start: int) -> None:
    """Entries must follow each other up to the directory, and their own headers say the same as the directory.

    Entries that share bytes would let a small archive inflate one block a thousand times.
    """
    expected = {0}
    for entry in sorted(entries, key=lambda one: one.header_offset):
        _judge_place(entry.header_offset, expected)
        file.seek(entry.header_offset)
        header = file.read(_LOCAL.size)
        if len(header) != _LOCAL.size or not header.startswith(b"PK\3\4"):
            raise ArchiveFault(f"has no entry where {entry.orig_filename[:80]!r} should begin")
        _, _, flags, method, _, _, crc, packed, inflated, name_bytes, extra_bytes = _LOCAL.unpack(header)
        name = entry.orig_filename.encode("utf-8" if entry.flag_bits & _IS_UTF8 else "cp437")
        unknown = {0, _UNKNOWN} if flags & _IN_DESCRIPTOR else {_UNKNOWN}
        told = [(crc, entry.CRC), (packed, entry.compress_size), (inflated, entry.file_size)]
        if (
            file.read(name_bytes) != name
            or method != entry.compress_type
            or (flags ^ entry.flag_bits) & 0x2069
            or any(here != there and here not in unknown for here, there in told)
        ):
            raise ArchiveFault(f"tells two different things about {entry.orig_filename[:80]!r}")
        end = entry.header_offset + _LOCAL.size + name_bytes + extra_bytes + entry.compress_size
        expected = {end + gap for gap in _DESCRIPTOR_BYTES} if flags & _IN_DESCRIPTOR else {end}
    _judge_place(directory_start, expected)


def _judge_place(offset: int, expected: set[int]) -> None:
    if offset < min(expected):
        raise ArchiveFault("has entries that overlap")
    if offset not in expected:
        raise ArchiveFault("holds bytes that belong to no entry")
