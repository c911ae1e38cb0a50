"""ZIP archives that lie: each is really built, by a writer that lets every field be wrong."""

import lzma
import os
import stat
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["LIMITS", "Lie", "hostile_archives", "lying_zip"]

LIMITS: Final = {"archive_bytes": 3 << 20, "inflated_bytes": 20 << 20, "entries": 20}
"""Of the unpacking that is to refuse them."""
_FIELDS: Final = ("version", "flags", "method", "time", "date", "crc", "packed", "inflated")


@dataclass
class Lie:
    """One entry; ``local`` and ``central`` override fields of its two headers."""

    name: str | bytes
    content: bytes = b""
    method: int = 8
    mode: int = stat.S_IFREG | 0o644
    extra: bytes = b""
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)
    data: bytes | None = None
    """Packed bytes instead of those of the content."""
    behind: bytes = b""
    """What follows them, such as a data descriptor."""


def lying_zip(
    entries: Sequence[Lie],
    *,
    before: bytes = b"",
    between: bytes = b"",
    end: dict[str, int] | None = None,
    comment: bytes = b"",
    behind: bytes = b"",
    before_end: bytes = b"",
) -> bytes:
    """Write an archive; honest as far as nothing else is said."""
    out, directory = bytearray(before), bytearray()
    for entry in entries:
        offset = len(out)
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = entry.data
        if packed is None:
            packed = packer.compress(entry.content) + packer.flush() if entry.method == 8 else entry.content
        name = entry.name.encode() if isinstance(entry.name, str) else entry.name
        flags = 0 if name.isascii() else 0x800
        values = (20, flags, entry.method, 0, 0x5A21, zlib.crc32(entry.content), len(packed), len(entry.content))
        local: dict[str, Any] = dict(zip(_FIELDS, values, strict=True)) | {"name": name, "extra": b""} | entry.local
        central: dict[str, Any] = (
            dict(zip(_FIELDS, values, strict=True)) | {"name": name, "disk": 0, "offset": offset} | entry.central
        )
        out += b"PK\3\4" + struct.pack("<5H3L", *(local[one] for one in _FIELDS))
        out += struct.pack("<2H", len(local["name"]), len(local["extra"])) + local["name"] + local["extra"]
        out += packed + entry.behind
        directory += b"PK\1\2" + struct.pack("<H5H3L", 0x314, *(central[one] for one in _FIELDS))
        directory += struct.pack(
            "<5H2L", len(central["name"]), len(entry.extra), 0, central["disk"], 0, entry.mode << 16, central["offset"]
        )
        directory += central["name"] + entry.extra
    out += between
    told = {
        "disk": 0,
        "first": 0,
        "here": len(entries),
        "count": len(entries),
        "size": len(directory),
        "start": len(out),
        "comment": len(comment),
    } | (end or {})
    out += directory + before_end + b"PK\5\6" + struct.pack("<4H2LH", *told.values()) + comment + behind
    return bytes(out)


def hostile_archives() -> dict[str, tuple[bytes, str]]:
    """Return each attack's archive and a part of the message that must refuse it, by its name; see `LIMITS`."""
    return _names() | _kinds() | _sizes() | _places() | _lies()


def _names() -> dict[str, tuple[bytes, str]]:
    elsewhere, unprintable, twice = "leads elsewhere", "unprintable name", "occurs twice"
    single = {
        "absolute": ("/etc/x", elsewhere),
        "parent": ("a/../../x", elsewhere),
        "dot": ("./x", elsewhere),
        "parent at the end": ("a/..", elsewhere),
        "double slash": ("a//x", elsewhere),
        "no name": ("", elsewhere),
        "only a slash": ("/", elsewhere),
        "backslash": ("..\\x", elsewhere),
        "drive": ("C:x", elsewhere),
        "stream of NTFS": ("a.onnx:b", elsewhere),
        "device of Windows": ("NUL", elsewhere),
        "device with an ending": ("models/com1.onnx", elsewhere),
        "device and a blank": ("aux .txt", elsewhere),
        "trailing dot": ("pipeline.json.", elsewhere),
        "trailing blank": ("a/b /c", elsewhere),
        "newline": ("a\nb", unprintable),
        "escape": ("\x1b[2J", unprintable),
        "turned round": ("a\u202exnno", unprintable),
        "long": ("a" * 241, unprintable),
        "long in bytes": ("\u00e9" * 121, unprintable),
        "deep": ("a/" * 9 + "b", unprintable),
    }
    several = {
        "the same name twice": (["a", "a"], twice),
        "other case": (["A.onnx", "a.onnx"], twice),
        "other Unicode": (["\u00e9", "e\u0301"], twice),
        "ligature": (["\ufb01le", "file"], twice),
        "sharp s": (["stra\u00dfe", "STRASSE"], twice),
        "folder and file": (["a/", "a"], twice),
        "file and folder": (["a", "a/b"], "file and a folder"),
        "file and folder in other case": (["A", "a/b"], "file and a folder"),
        "file in a file of other Unicode": (["\u00e9", "e\u0301/b"], "file and a folder"),
    }
    found = {name: (lying_zip([Lie(text, b"x" * (text[-1:] != "/"))]), what) for name, (text, what) in single.items()}
    found |= {name: (lying_zip([Lie(text) for text in texts]), what) for name, (texts, what) in several.items()}
    found["zero byte"] = (lying_zip([Lie(b"a\0b")]), unprintable)
    found["no UTF-8"] = (lying_zip([Lie(b"\xff\xfe")]), "damaged")
    second = struct.pack("<BL", 1, zlib.crc32(b"good")) + b"../evil"
    unicode_path = struct.pack("<2H", 0x7075, len(second)) + second
    found["second name in an extra field"] = (lying_zip([Lie("good", b"x", extra=unicode_path)]), "second name")
    return found


def _kinds() -> dict[str, tuple[bytes, str]]:
    special, encrypted, other = "link or a device", "encrypted", "method other than deflate"
    packed = lzma.compress(b"x" * 1000, lzma.FORMAT_ALONE)
    found = {
        "symbolic link": (Lie("x", b"/etc/passwd", mode=stat.S_IFLNK | 0o777), special),
        "character device": (Lie("x", mode=stat.S_IFCHR | 0o666), special),
        "block device": (Lie("x", mode=stat.S_IFBLK | 0o666), special),
        "pipe": (Lie("x", mode=stat.S_IFIFO | 0o666), special),
        "socket": (Lie("x", mode=stat.S_IFSOCK | 0o666), special),
        "folder by its mode alone": (Lie("x", b"1", mode=stat.S_IFDIR | 0o755), special),
        "folder that is a link": (Lie("x/", mode=stat.S_IFLNK | 0o777), special),
        "folder with content": (Lie("x/", b"content", mode=stat.S_IFDIR | 0o755), "folder with content"),
        "method LZMA": (Lie("x", b"x" * 1000, method=14, data=b"\x09\x04\x05\0" + packed[:5] + packed[13:]), other),
        "method Deflate64": (Lie("x", b"x", method=9, data=b"x"), other),
        "method 99": (Lie("x", b"x", method=99, data=b"x"), other),
    }
    for name, bit in {"encrypted": 0x1, "strongly encrypted": 0x40, "patched": 0x20, "masked": 0x2000}.items():
        found[name] = (Lie("x", b"x", local={"flags": bit}, central={"flags": bit}), encrypted)
    return {name: (lying_zip([entry]), what) for name, (entry, what) in found.items()}


def _sizes() -> dict[str, tuple[bytes, str]]:
    zeros = bytes(2 << 20)
    quine = lying_zip([Lie("a", bytes(1 << 20))])
    for _ in range(3):
        quine = lying_zip([Lie("a.zip", quine)])
    return {
        "too many entries": (lying_zip([Lie(str(number)) for number in range(21)]), "21 entries"),
        "more entries than told": (lying_zip([Lie("a"), Lie("b")], end={"count": 1, "here": 1}), "says it has 1"),
        "fewer entries than told": (lying_zip([Lie("a")], end={"count": 9, "here": 9}), "says it has 9"),
        "too large": (
            lying_zip(
                [Lie(str(one), os.urandom(1 << 20) + zeros[: 19 << 20], method=8) for one in range(2)]
                + [Lie("z", zeros, central={"inflated": 19 << 20}, local={"inflated": 19 << 20})]
            ),
            "more than 20 MiB",
        ),
        "ratio of an entry": (lying_zip([Lie("a", zeros)]), "200 times"),
        "ratio of all": (lying_zip([Lie(str(one), zeros[: 1 << 20]) for one in range(17)]), "as a whole"),
        "huge directory": (
            lying_zip([Lie("a", extra=struct.pack("<2H", 0x9999, 30_000) + bytes(30_000))]),
            "too large for its entries",
        ),
        "larger than it may be": (lying_zip([Lie("a", os.urandom(3 << 20))]), "larger than 3 MiB"),
    }


def _places() -> dict[str, tuple[bytes, str]]:
    plain, stray = [Lie("pipeline.json", b"{}"), Lie("b", b"2" * 50)], "belong to no entry"
    hidden = lying_zip([Lie("hidden", b"x")])
    own = lying_zip(plain)
    whole = "no ZIP archive, or is cut"
    big = Lie("a", os.urandom(500))
    return {
        "nothing at all": (b"", whole),
        "no ZIP": (b"this is not a zip archive, whatever its name says", whole),
        "program in front": (lying_zip(plain, before=b"#!/bin/sh\nexit\n"), stray),
        "program in front, offsets not told": (b"MZ" + bytes(100) + own, stray),
        "another archive in front": (hidden + own, stray),
        "another archive behind": (own + hidden, stray),
        "two ends": (own + b"PK\5\6" + bytes(18), stray),
        "two ends, one in the comment": (lying_zip(plain, comment=b"PK\5\6" + bytes(18)), stray),
        "comment": (lying_zip(plain, comment=b"hello"), whole),
        "huge comment": (lying_zip(plain, comment=bytes(60_000)), whole),
        "bytes behind": (own + b"\0", whole),
        "bytes between": (lying_zip(plain, between=b"hidden"), stray),
        "bytes before the end": (lying_zip(plain, before_end=b"hidden"), stray),
        "hidden entry": (_without_record(own), stray),
        "overlap": (lying_zip([big, Lie("b", b"1", central={"offset": 10})]), "overlap"),
        "one entry's bytes for many": (_shared(), "overlap"),
        "entry in the directory": (
            lying_zip(
                [
                    Lie("a", b"x"),
                    Lie(
                        "b", central={"packed": 500, "inflated": 500}, local={"packed": 500, "inflated": 500}, method=0
                    ),
                ]
            ),
            "overlap",
        ),
        "offset beyond the end": (lying_zip([Lie("a", central={"offset": 1 << 30})]), stray),
        "offset to no header": (lying_zip([Lie("a", b"x"), Lie("b", central={"offset": 0})]), "overlap"),
        "several disks": (lying_zip(plain, end={"disk": 1}), "part of several"),
        "directory on another disk": (lying_zip(plain, end={"first": 1}), "part of several"),
        "entry counts differ": (lying_zip(plain, end={"here": 1}), "part of several"),
        "cut": (own[:-30], whole),
        "cut in front": (own[5:], stray),
        "directory size too small": (lying_zip(plain, end={"size": 46}), stray),
        "directory beyond the end": (lying_zip(plain, end={"start": 1 << 31}), stray),
        "ZIP64 by its marks": (lying_zip(plain, end={"start": 0xFFFFFFFF}), "ZIP64"),
        "ZIP64 end": (_zip64_end(plain), "ZIP64"),
    }


def _without_record(content: bytes) -> bytes:
    """Take the first entry's record out of the directory; its bytes stay."""
    start, second = content.index(b"PK\1\2"), content.rindex(b"PK\1\2")
    directory = content[second : content.rindex(b"PK\5\6")]
    return content[:start] + directory + b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, len(directory), start, 0)


def _shared() -> bytes:
    """Twenty entries that all inflate the bytes of one, each with a header of its own in front of the next."""
    entries = [Lie(f"{number:02}", bytes(1 << 20)) for number in range(10)]
    content = bytearray(lying_zip(entries[:1]))
    kernel = bytes(content[: content.index(b"PK\1\2")])
    record = bytes(content[content.index(b"PK\1\2") : content.rindex(b"PK\5\6")])
    directory = record * 1 + b"".join(record.replace(b"00", f"{number:02}".encode()) for number in range(1, 10))
    end = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 10, 10, len(directory), len(kernel), 0)
    return kernel + directory + end


def _zip64_end(entries: list[Lie]) -> bytes:
    plain = lying_zip(entries)
    start, size = plain.index(b"PK\1\2"), len(plain) - 22 - plain.index(b"PK\1\2")
    record = b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, 1 << 40, 1 << 40, size, start)
    return lying_zip(entries, before_end=record + b"PK\6\7" + struct.pack("<LQL", 0, start + size, 1))


def _lies() -> dict[str, tuple[bytes, str]]:
    two, text = "two different things", b"x" * 5000
    zip64 = struct.pack("<2H2Q", 1, 16, 1 << 50, 1 << 50)
    other_crc = {"crc": 0x01020304}
    found = {
        "another name in its own header": (Lie("good", b"x", local={"name": b"evil"}), two),
        "another method in its own header": (Lie("a", text, local={"method": 0}), two),
        "another size in its own header": (Lie("a", text, local={"inflated": 10}), two),
        "another packed size in its own header": (Lie("a", text, local={"packed": 10}), two),
        "another checksum in its own header": (Lie("a", text, local=other_crc), two),
        "encrypted in its own header": (Lie("a", text, local={"flags": 1}), two),
        "no data descriptor where one is told": (Lie("a", text, local={"flags": 8}, central={"flags": 8}), "overlap"),
        "stray bytes for a data descriptor": (
            Lie("a", text, local={"flags": 8}, central={"flags": 8}, behind=bytes(13)),
            "belong to no entry",
        ),
        "size hidden in ZIP64": (Lie("a", text, central={"inflated": 0xFFFFFFFF}, extra=zip64), "more than 20 MiB"),
        "ZIP64 sizes without their field": (Lie("a", text, central={"inflated": 0xFFFFFFFF}), "more than 20 MiB"),
        "torn extra field": (Lie("a", text, extra=struct.pack("<2H", 1, 500)), "damaged"),
        "says less than it holds": (_both(text, inflated=50), "damaged"),
        "says more than it holds": (_both(text, inflated=6000), "shorter than it says"),
        "packed says less": (_both(text, packed=5), "belong to no entry"),
        "wrong checksum": (_both(text, **other_crc), "damaged"),
        "broken stream": (Lie("a", text, data=b"\xff" * 40), "damaged"),
        "stored, with two sizes": (_both(text, method=0, inflated=9000), "shorter than it says"),
        "version of another century": (Lie("a", text, central={"version": 999}), "damaged"),
    }
    return {name: (lying_zip([entry]), what) for name, (entry, what) in found.items()}


def _both(content: bytes, *, method: int = 8, **fields: int) -> Lie:
    """An entry whose two headers agree on what is not so."""
    return Lie("a", content, method=method, local=dict(fields), central=dict(fields))
