import contextlib
import hashlib
import io
import os
import random
import stat
import struct
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.tiny_models import zip_bytes

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.archives.unpacking import ArchiveLimits, extract_archive, remove_leftovers

GOOD = {"pipeline.json": b"{}", "models/a.onnx": bytes(range(256)) * 100}


def zip_of(entries: list[tuple[zipfile.ZipInfo | str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return buffer.getvalue()


def special(kind: int, name: str = "x") -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (kind | 0o777) << 16
    return entry


def patched(content: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """Write over a field of the first header of a kind."""
    at = content.index(signature) + offset
    return content[:at] + value + content[at + len(value) :]


def with_overlap() -> bytes:
    """Two entries of the directory that name one and the same local entry's bytes."""
    content = zip_of([("a", os.urandom(500)), ("b", b"2")])
    second = content.rindex(b"PK\x01\x02")
    return content[: second + 42] + struct.pack("<I", 10) + content[second + 46 :]


def attacks() -> dict[str, bytes]:
    method_lzma = io.BytesIO()
    with zipfile.ZipFile(method_lzma, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", b"x" * 1000)
    return {
        "no zip": b"this is not a zip archive",
        "empty": b"",
        "cut short": zip_bytes(GOOD)[:-30],
        "absolute": zip_of([("/etc/x", b"")]),
        "parent": zip_of([("a/../../x", b"")]),
        "dot": zip_of([("./x", b"")]),
        "double slash": zip_of([("a//x", b"")]),
        "backslash": zip_of([("..\\x", b"")]),
        "drive": zip_of([("C:x", b"")]),
        "newline": zip_of([("a\nb", b"")]),
        "zero byte": zip_of([("ab", b"")]).replace(b"ab", b"a\x00"),
        "too long a name": zip_of([("a" * 300, b"")]),
        "link": zip_of([(special(stat.S_IFLNK), b"/etc/passwd")]),
        "device": zip_of([(special(stat.S_IFCHR), b"")]),
        "pipe": zip_of([(special(stat.S_IFIFO), b"")]),
        "twice": zip_of([("ab", b"1"), ("ac", b"2")]).replace(b"ac", b"ab"),
        "twice in other case": zip_of([("A.onnx", b"1"), ("a.onnx", b"2")]),
        "twice in other Unicode": zip_of([("\u00e9", b"1"), ("e\u0301", b"2")]),
        "file and folder": zip_of([("a", b"1"), ("a/b", b"2")]),
        "file and folder in other case": zip_of([("A", b"1"), ("a/b", b"2")]),
        "folder entry and file": zip_of([("a/", b""), ("a", b"2")]),
        "too many entries": zip_of([(str(number), b"") for number in range(21)]),
        "too large": zip_of([(str(number), os.urandom(150_000)) for number in range(8)]),
        "ratio": zip_of([("a", bytes(1_500_000))]),
        "overlap": with_overlap(),
        "encrypted": patched(zip_bytes(GOOD), b"PK\x01\x02", 8, b"\x01\x00"),
        "other method": method_lzma.getvalue(),
        "says less than it holds": patched(zip_of([("a", b"x" * 5000)]), b"PK\x01\x02", 24, struct.pack("<I", 50)),
        "wrong checksum": patched(zip_of([("a", b"x" * 5000)]), b"PK\x01\x02", 16, b"\x00\x01\x02\x03"),
        "broken stream": patched(zip_of([("a", os.urandom(5000))]), b"PK\x03\x04", 31, b"\xff" * 40),
        "offset beyond the end": patched(zip_bytes(GOOD), b"PK\x01\x02", 42, struct.pack("<I", 1 << 30)),
    }


LIMITS = ArchiveLimits(archive_bytes=3 << 20, inflated_bytes=1_100_000, entries=20)
RATIO_LIMITS = ArchiveLimits(inflated_bytes=1 << 30)


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "inside" / "cache"


def write(folder: Path, content: bytes) -> Path:
    path = folder / "a.mpta"
    path.write_bytes(content)
    return path


def everything_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_an_archive_is_unpacked_under_its_hash(tmp_path: Path, cache_dir: Path) -> None:
    path = write(tmp_path, zip_bytes(GOOD))

    folder = extract_archive(path, cache_dir, LIMITS, where="archive a")

    assert folder == cache_dir / hashlib.sha256(path.read_bytes()).hexdigest()
    assert {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.*")} == GOOD


def test_the_second_time_it_is_found_there(tmp_path: Path, cache_dir: Path) -> None:
    path = write(tmp_path, zip_bytes(GOOD))
    first = extract_archive(path, cache_dir, LIMITS, where="archive a")
    marker = first / "marker"
    marker.touch()

    assert extract_archive(path, cache_dir, LIMITS, where="archive a") == first
    assert marker.exists()


def test_several_at_once_agree(tmp_path: Path, cache_dir: Path) -> None:
    path = write(tmp_path, zip_bytes(GOOD))

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: extract_archive(path, cache_dir, LIMITS, where="archive a"), range(16)))

    assert len(found) == 1
    assert list(cache_dir.iterdir()) == [found.pop()]


@pytest.mark.parametrize("name", attacks())
def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path: Path, cache_dir: Path, name: str) -> None:
    path = write(tmp_path, attacks()[name])
    before = everything_below(tmp_path)

    with pytest.raises(ModelLoadError) as caught:
        extract_archive(path, cache_dir, RATIO_LIMITS if name == "ratio" else LIMITS, where="archive a")

    assert caught.value.mend
    assert everything_below(tmp_path) - before <= {cache_dir, cache_dir.parent}


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("parent", "leads elsewhere"),
        ("link", "link or a device"),
        ("twice in other case", "occurs twice"),
        ("ratio", "200 times"),
        ("overlap", "overlap"),
        ("encrypted", "encrypted"),
        ("too many entries", "21 entries"),
        ("no zip", "no ZIP"),
    ],
)
def test_the_refusal_names_the_fault(tmp_path: Path, cache_dir: Path, name: str, what: str) -> None:
    limits = RATIO_LIMITS if name == "ratio" else LIMITS
    with pytest.raises(ModelLoadError, match=what):
        extract_archive(write(tmp_path, attacks()[name]), cache_dir, limits, where="archive a")


def test_too_large_a_file_is_not_even_read(tmp_path: Path, cache_dir: Path) -> None:
    path = tmp_path / "a.mpta"
    with path.open("wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(ModelLoadError, match="larger than"):
        extract_archive(path, cache_dir, LIMITS, where="archive a")


def test_a_missing_file_and_a_folder_are_clear_errors(tmp_path: Path, cache_dir: Path) -> None:
    for path in (tmp_path / "absent.mpta", tmp_path):
        with pytest.raises(ModelLoadError):
            extract_archive(path, cache_dir, LIMITS, where="archive a")


def test_mutated_archives_are_unpacked_or_refused_and_never_leave_the_cache(tmp_path: Path, cache_dir: Path) -> None:
    rng, original = random.Random(3), zip_bytes(GOOD)
    for _ in range(150):
        mutated = bytearray(original)
        for _ in range(rng.randint(1, 6)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        with contextlib.suppress(ModelLoadError):
            extract_archive(write(tmp_path, bytes(mutated)), cache_dir, LIMITS, where="archive a")

    assert {entry.name for entry in tmp_path.iterdir()} <= {"a.mpta", "inside"}
    assert [entry.name for entry in (tmp_path / "inside").iterdir()] in ([], ["cache"])
    assert not [entry for entry in cache_dir.iterdir() if len(entry.name) != 64]


def test_old_leftovers_go_and_young_ones_stay(cache_dir: Path) -> None:
    old, young, other = (cache_dir / name for name in (".unfinished-old", ".unfinished-young", "else"))
    old_file = cache_dir / ".unfinished-file"
    for folder in (old, young, other):
        folder.mkdir(parents=True)
    old_file.touch()
    for left in (old, old_file):
        os.utime(left, (time.time() - 7200, time.time() - 7200))

    remove_leftovers(cache_dir)

    assert set(cache_dir.iterdir()) == {young, other}
