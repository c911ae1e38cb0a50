import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from support.http_archives import new_source
from support.tiny_models import zip_bytes

from detector_worker.core.exceptions import MessageProcessingError, ModelLoadError

ONE = zip_bytes({"pipeline.json": b"{}", "a.onnx": bytes(1000)})


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


async def test_a_file_is_fetched_by_path_and_by_address(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "an archive.mpta"
    path.write_bytes(ONE)
    source = new_source(cache)

    for url in (str(path), f"file://{tmp_path}/an%20archive.mpta"):
        with await source.fetch(url) as fetched:
            assert fetched.sha256 == hashlib.sha256(ONE).hexdigest()
    with await source.fetch_path(path) as fetched:
        assert fetched.where == "archive 'an archive.mpta'"


def _read_bytes() -> int:
    """How much this process has read."""
    return int(Path("/proc/self/io").read_text().split()[1])


async def test_an_unchanged_file_is_not_read_again(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "large.mpta"
    path.write_bytes(zip_bytes({"a.onnx": os.urandom(8 << 20)}))
    source = new_source(cache)
    (await source.fetch_path(path)).close()
    assert source._remembered == {}  # it has just been written, and may be once more under the same time
    await asyncio.sleep(2.1)
    (await source.fetch_path(path)).close()
    before = _read_bytes()

    (await source.fetch_path(path)).close()

    assert _read_bytes() - before < 1 << 20


async def test_a_file_that_changes_under_its_old_date_is_noticed(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a.mpta"
    path.write_bytes(ONE)
    source, status = new_source(cache), path.stat()
    (await source.fetch_path(path)).close()
    other = zip_bytes({"pipeline.json": b"[]", "a.onnx": bytes(1000)})
    path.write_bytes(other)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size

    with await source.fetch_path(path) as fetched:
        assert fetched.sha256 == hashlib.sha256(other).hexdigest()


@pytest.mark.parametrize("path", ["/nowhere/a.mpta", "relative\nname", "zero\0byte", "/dev/zero", "."])
async def test_what_is_no_archive_file_is_a_clear_error(cache: Path, path: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        await new_source(cache).fetch(path)
    assert caught.value.mend


async def test_a_pipe_holds_nobody_up(tmp_path: Path, cache: Path) -> None:
    os.mkfifo(tmp_path / "a.mpta")

    with pytest.raises(ModelLoadError, match="no regular file"):
        await new_source(cache).fetch_path(tmp_path / "a.mpta")


async def test_files_are_read_from_allowed_folders_only(tmp_path: Path, cache: Path) -> None:
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    for folder in (allowed, other):
        folder.mkdir()
        (folder / "a.mpta").write_bytes(ONE)
    (allowed / "link.mpta").symlink_to(other / "a.mpta")
    source = new_source(cache, allowed_paths=(allowed,))
    (await source.fetch(str(allowed / "a.mpta"))).close()

    for url in (f"{other}/a.mpta", f"file://{other}/a.mpta", f"{allowed}/../other/a.mpta", f"{allowed}/link.mpta"):
        with pytest.raises(ModelLoadError, match="may not be read from there"):
            await source.fetch(url)
    with pytest.raises(ModelLoadError, match="may not be read from there"):
        await new_source(cache, allowed_paths=()).fetch(str(allowed / "a.mpta"))


@pytest.mark.parametrize("url", ["ftp://h/a.mpta", "http://", "http://h /a", "file://other/a.mpta"])
async def test_what_is_no_address_is_refused(cache: Path, url: str) -> None:
    with pytest.raises(MessageProcessingError):
        await new_source(cache).fetch(url)
