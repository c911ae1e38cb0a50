import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from detector_worker.core.exceptions import ServiceError
from detector_worker.storage.folder_lock import FolderLock


@contextmanager
def held(path: Path) -> Iterator[FolderLock]:
    lock = FolderLock(path)
    lock.acquire()
    try:
        yield lock
    finally:
        lock.release()


def test_a_second_owner_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with held(tmp_path / "lock"), pytest.raises(ServiceError, match=f"in use by process {os.getpid()} "):
        FolderLock(tmp_path / "lock").acquire()


def test_a_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    with held(tmp_path / "lock"):
        pass

    with held(tmp_path / "lock"):
        assert FolderLock(tmp_path / "lock").read() == {"pid": os.getpid()}


def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from detector_worker.storage.folder_lock import FolderLock;"
        "FolderLock(pathlib.Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(60)"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "lock")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        assert FolderLock(tmp_path / "lock").read() == {"pid": owner.pid}
        owner.kill()

    assert FolderLock(tmp_path / "lock").read() == {}


def test_others_read_what_the_holder_published(tmp_path: Path) -> None:
    with held(tmp_path / "lock") as lock:
        lock.publish({"socket": "/somewhere"})

        assert FolderLock(tmp_path / "lock").read() == {"pid": os.getpid(), "socket": "/somewhere"}


def test_nothing_is_read_once_the_lock_is_released(tmp_path: Path) -> None:
    with held(tmp_path / "lock") as lock:
        lock.publish({"socket": "/somewhere"})

    assert lock.read() == {}


def test_whoever_reads_all_the_time_refuses_no_owner(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from detector_worker.storage.folder_lock import FolderLock;"
        "print('reads', flush=True)\nwhile True: FolderLock(pathlib.Path(sys.argv[1])).read()"
    )
    (tmp_path / "lock").touch()
    arguments = [sys.executable, "-c", program, str(tmp_path / "lock")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reads\n"
        try:
            for _ in range(20):
                with held(tmp_path / "lock"):
                    pass
        finally:
            reader.kill()


def test_a_folder_that_does_not_exist_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot be opened: No such file"):
        FolderLock(tmp_path / "absent" / "lock").acquire()
