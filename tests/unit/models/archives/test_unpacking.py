import io
import os
import resource
import shutil
import stat
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest
from support.hostile_archives import LIMITS as HOSTILE_LIMITS
from support.hostile_archives import Lie, hostile_archives, lying_zip
from support.http_archives import new_source, unpacked
from support.tiny_models import zip_bytes

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.archives.unpacking import ArchiveLimits, unpack_archive

GOOD = {"pipeline.json": b"{}", "models/a.onnx": bytes(range(256)) * 100}
LIMITS = ArchiveLimits(**HOSTILE_LIMITS)
ATTACKS = hostile_archives()
ONLY_INFLATING_TELLS = {
    *("says less than it holds", "says more than it holds", "stored, with two sizes", "wrong checksum"),
    *("broken stream", "larger than it may be"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "unpacked"


def unpack(content: bytes, folder: Path, limits: ArchiveLimits = LIMITS) -> dict[str, bytes]:
    path = folder.with_name("a.mpta")
    path.write_bytes(content)
    unpack_archive(path, folder, limits, where="archive a")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# Attacks


@pytest.mark.parametrize("name", ATTACKS)
async def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    content, what = ATTACKS[name]
    path, cache = tmp_path / "a.mpta", tmp_path / "inside" / "cache"
    path.write_bytes(content)
    source = new_source(cache, limits=LIMITS)

    with pytest.raises(ModelLoadError, match=what) as caught:
        await source.fetch_path(path)

    assert caught.value.mend
    assert str(caught.value).isprintable()
    assert unpacked(cache) == set()
    assert set(os.listdir(tmp_path)) == {"a.mpta", "inside"}  # noqa: PTH208


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in ONLY_INFLATING_TELLS])
def test_what_its_directory_gives_away_is_refused_before_anything_is_written(folder: Path, name: str) -> None:
    with pytest.raises(ModelLoadError):
        unpack(ATTACKS[name][0], folder)

    assert not folder.exists()


def test_an_archive_in_an_archive_is_a_file_like_any_other(folder: Path) -> None:
    inner = zip_bytes({"../x": b"evil"})

    assert unpack(zip_bytes({"a.zip": inner}), folder) == {"a.zip": inner}


@pytest.mark.parametrize("mode", [0o4777, 0o2777, 0o1777, 0o000, 0o777])
def test_permissions_are_not_taken_over(folder: Path, mode: int) -> None:
    entries = [Lie("a", b"x", mode=stat.S_IFREG | mode), Lie("d/", mode=stat.S_IFDIR | mode), Lie("d/b", b"y")]
    unpack(lying_zip(entries), folder)

    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & ~0o755 == 0
        assert path.stat().st_mode & stat.S_IRUSR


def test_a_small_archive_that_claims_the_world_takes_no_memory(folder: Path) -> None:
    """The end record's count and size are judged before the directory is read."""
    content = lying_zip([Lie("a")], end={"count": 0xFFFE, "here": 0xFFFE})
    huge = bytes(60 << 20)
    padded = (
        content[: content.index(b"PK\1\2")]
        + huge
        + b"PK\5\6"
        + struct.pack("<4H2LH", 0, 0, 1, 1, len(huge), content.index(b"PK\1\2"), 0)
    )
    path = folder.with_name("a.mpta")
    path.write_bytes(padded)
    del padded, huge
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(ModelLoadError, match="too large for its entries"):
        unpack_archive(path, folder, ArchiveLimits(), where="")
    with pytest.raises(ModelLoadError, match="65534 entries"):
        unpack(content, folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 20 << 10


async def test_too_large_a_file_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mpta"
    with path.open("wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(ModelLoadError, match="larger than"):
        await new_source(tmp_path / "cache").fetch_path(path)


# What people's programs make


def test_an_ordinary_archive_is_unpacked(folder: Path) -> None:
    assert unpack(zip_bytes(GOOD), folder) == GOOD


def test_a_writer_that_cannot_seek_leaves_data_descriptors(folder: Path) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.content = b""

        def writable(self) -> bool:
            return True

        def write(self, piece: object) -> int:
            self.content += bytes(piece)  # type: ignore[call-overload]
            return len(bytes(piece))  # type: ignore[call-overload]

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in GOOD.items():
            archive.writestr(name, content)
        with archive.open("large", "w", force_zip64=True) as entry:
            entry.write(b"x")

    assert unpack(pipe.content, folder) == {**GOOD, "large": b"x"}


def test_what_the_zip_program_makes_is_unpacked(tmp_path: Path, folder: Path) -> None:
    """With folders, owners and times; and once through a pipe."""
    for name, content in GOOD.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    if (program := shutil.which("zip")) is None:
        pytest.skip("no zip program here")
    subprocess.run([program, "-qr", "../out.zip", "."], cwd=tmp_path / "in", check=True)
    streamed = subprocess.run([program, "-qr", "-", "."], cwd=tmp_path / "in", check=True, capture_output=True)

    assert unpack((tmp_path / "out.zip").read_bytes(), folder) == GOOD
    assert unpack(streamed.stdout, folder.with_name("again")) == GOOD


def test_an_archive_that_was_added_to_and_one_with_empty_folders(folder: Path) -> None:
    buffer = io.BytesIO(zip_bytes(GOOD))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("later", b"x")
        archive.mkdir("empty")

    assert unpack(buffer.getvalue(), folder) == {**GOOD, "later": b"x"}
    assert (folder / "empty").is_dir()


def test_an_entry_may_shrink_a_lot_while_it_is_small(folder: Path) -> None:
    assert unpack(zip_bytes({"a": bytes(1 << 20), "b": os.urandom(10)}), folder)["a"] == bytes(1 << 20)
