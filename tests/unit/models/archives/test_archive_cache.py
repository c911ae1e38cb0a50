import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.http_archives import new_source, unpacked
from support.waiting import wait_until_sync

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.models.archives.archive_cache import ArchiveCache
from detector_worker.models.archives.download import Validators

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
KIB = 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fill(cache: ArchiveCache, sha256: str, *, used_s_ago: float, size_kib: int = 100) -> None:
    with cache.unfinished() as beside:
        (beside / "files").mkdir()
        (beside / "files" / "a.onnx").write_bytes(bytes(size_kib * KIB))
        cache.admit(beside / "files", sha256)
    used_at = time.time() - used_s_ago
    os.utime(cache.path(sha256), (used_at, used_at))


def test_what_was_used_longest_ago_goes_first_and_no_more_than_must(folder: Path) -> None:
    cache = ArchiveCache(folder, budget_bytes=250 * KIB)
    for sha256, age_s in ((A, 10), (B, 30), (C, 20)):
        fill(cache, sha256, used_s_ago=age_s)

    cache.prune()

    assert unpacked(folder) == {A, C}


def test_use_counts_as_use(folder: Path) -> None:
    cache = ArchiveCache(folder, budget_bytes=150 * KIB)
    fill(cache, A, used_s_ago=30)
    fill(cache, B, used_s_ago=20)
    cache.hold(A).close()

    cache.prune()

    assert unpacked(folder) == {A}


def test_what_is_held_stays_until_all_shares_are_given_back(folder: Path) -> None:
    cache, other = ArchiveCache(folder, budget_bytes=0), ArchiveCache(folder, budget_bytes=0)
    fill(cache, A, used_s_ago=30)
    hold = cache.hold(A)
    share = hold.share()
    hold.close()
    hold.close()

    for one in (cache, other):
        one.prune()
    assert unpacked(folder) == {A}
    share.close()
    other.prune()
    assert unpacked(folder) == set()
    assert list((folder / "holds").iterdir()) == []


def test_who_waits_while_an_archive_is_removed_holds_what_others_will_look_at(folder: Path) -> None:
    """The lock that was waited for belongs to a file that is gone; a hold on that would protect nothing."""
    cache, lock = ArchiveCache(folder, budget_bytes=0), folder / "holds" / A
    with lock.open("w") as remover, ThreadPoolExecutor(1) as pool:
        fcntl.flock(remover, fcntl.LOCK_EX)
        waiting = pool.submit(cache.hold, A)
        wait_until_sync(lambda: f"{lock.stat().st_ino} " in Path("/proc/locks").read_text().partition("->")[2])
        lock.unlink()
        remover.close()
        with waiting.result():
            fill(cache, A, used_s_ago=10)
            cache.prune()
            assert unpacked(folder) == {A}


def test_what_is_held_counts_towards_the_budget(folder: Path) -> None:
    cache = ArchiveCache(folder, budget_bytes=150 * KIB)
    fill(cache, A, used_s_ago=30)
    fill(cache, B, used_s_ago=20)

    with cache.hold(A):
        cache.prune()

    assert unpacked(folder) == {A}


def test_notes_go_with_their_archive(folder: Path) -> None:
    cache = ArchiveCache(folder, budget_bytes=0)
    for name, sha256 in (("1", A), ("2", B)):
        fill(cache, sha256, used_s_ago=10)
        cache.note_source(name, Validators(etag='"x"'), sha256)
        cache.note_signer(sha256, "key")
        lock = cache.try_source_lock(name)
        assert lock is not None
        lock.close()

    with cache.hold(B):
        cache.prune()

    assert {path.name for path in (folder / "sources").iterdir()} == {"2.json", "2.lock"}
    assert (cache.is_signed(A, ["key"]), cache.is_signed(B, ["key"])) == (False, True)


def test_a_note_of_whoever_is_just_fetching_stays(folder: Path) -> None:
    cache = ArchiveCache(folder, budget_bytes=0)
    cache.note_source("1", Validators(), A)
    lock = cache.try_source_lock("1")
    assert lock is not None

    cache.prune()

    assert cache.source("1") is not None
    assert cache.try_source_lock("1") is None
    lock.close()


def test_strangers_in_the_folder_are_left_alone(folder: Path) -> None:
    cache = ArchiveCache(folder, budget_bytes=0)
    for name in ("notes.txt", "A" * 64, "a" * 63):
        (folder / name).mkdir()

    cache.prune()

    assert unpacked(folder) == {"notes.txt", "A" * 64, "a" * 63}


@pytest.mark.parametrize("damage", ["", "{", "5", '["a", 5]', '"key"'])
def test_a_damaged_note_of_signers_trusts_nobody(folder: Path, damage: str) -> None:
    cache = ArchiveCache(folder, budget_bytes=0)
    (folder / "signers" / A).write_text(damage)

    assert not cache.is_signed(A, ["key", "a", "5"])


# What is unfinished

HOLDER = """
import sys, time
from pathlib import Path
from detector_worker.models.archives.archive_cache import ArchiveCache
cache = ArchiveCache(Path(sys.argv[1]), budget_bytes=0)
with cache.unfinished() as beside:
    (beside / "archive").touch()
    print(beside.name, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other_process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process at work in the folder, since more than a minute as far as dates tell."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        beside = folder / process.stdout.readline().strip()
        os.utime(beside, (time.time() - 100, time.time() - 100))
        yield process, beside
        process.kill()


def test_unfinished_work_of_a_living_process_stays_and_of_a_killed_one_goes(
    folder: Path, other_process: tuple[subprocess.Popen[str], Path]
) -> None:
    process, beside = other_process
    ArchiveCache(folder, budget_bytes=0)
    assert (beside / "archive").exists()

    process.kill()
    process.wait()
    assert beside.exists()
    ArchiveCache(folder, budget_bytes=0)
    assert not beside.exists()


def test_finished_work_leaves_nothing_behind(folder: Path, other_process: tuple[subprocess.Popen[str], Path]) -> None:
    process, beside = other_process
    process.communicate("\n")

    wait_until_sync(lambda: process.poll() == 0)
    assert not beside.exists()


def test_a_young_folder_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    for name, age_s in ((".unfinished-young", 5), (".unfinished-old", 100)):
        (folder / name).mkdir()
        os.utime(folder / name, (time.time() - age_s, time.time() - age_s))

    ArchiveCache(folder, budget_bytes=0)

    assert unpacked(folder) == {".unfinished-young"}


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match="Not a directory"):
        new_source(tmp_path / "file" / "cache")
