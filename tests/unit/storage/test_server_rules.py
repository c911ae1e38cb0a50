import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from support.folders import open_folder

from detector_worker.core.exceptions import ServiceError
from detector_worker.storage.server_binaries import find_postgresql, find_valkey, reachable_copy
from detector_worker.storage.server_folders import bound_log, last_line, make_private_folder, make_socket_folder
from detector_worker.storage.server_kinds import can_read
from detector_worker.storage.server_process import Account, first_closed_path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
NOBODY = Account("nobody", 65534, 65534)


@pytest.mark.parametrize(
    ("ours", "theirs", "readable"),
    [
        (("valkey", 8, 1), ("valkey", 8, 0), True),
        (("valkey", 9, 0), ("valkey", 8, 1), True),
        (("valkey", 8, 1), ("valkey", 9, 0), False),
        (("valkey", 8, 1), ("redis", 7, 2), True),
        (("valkey", 8, 1), ("redis", 7, 4), False),
        (("redis", 6, 2), ("redis", 7, 0), False),
        (("redis", 8, 0), ("valkey", 8, 1), False),
    ],
)
def test_data_is_opened_only_by_a_server_that_reads_it(
    ours: tuple[str, int, int], theirs: tuple[str, int, int], *, readable: bool
) -> None:
    assert can_read(ours, theirs) is readable


def test_both_servers_come_with_the_package() -> None:
    assert os.access(find_postgresql().path, os.X_OK)
    assert os.access(find_postgresql().path.with_name("psql"), os.X_OK)
    assert find_valkey().version >= (6, 2)


@needs_root
def test_the_closed_folder_above_is_named() -> None:
    with open_folder() as folder:
        (folder / "closed" / "below").mkdir(parents=True)
        (folder / "closed").chmod(0o700)

        assert first_closed_path(NOBODY, folder / "closed" / "below") == folder / "closed"


@needs_root
def test_an_open_path_with_spaces_is_not_closed() -> None:
    with open_folder() as folder:
        (folder / "a b").mkdir(mode=0o755)

        assert first_closed_path(NOBODY, folder / "a b") is None


@needs_root
def test_programs_in_a_closed_folder_are_copied_with_all_they_need() -> None:
    with open_folder() as folder:
        installed, closed = find_postgresql(), folder / "closed"
        for needed in installed.needs:
            shutil.copytree(installed.root / needed, closed / needed, symlinks=True)
        closed.chmod(0o700)
        hidden = replace(installed, path=closed / installed.path.relative_to(installed.root), root=closed)

        copy = reachable_copy(hidden, account=NOBODY, copies=folder / "copies")

        for program in ("postgres", "initdb"):
            command = [str(copy.path.with_name(program)), "--version"]
            output = subprocess.check_output(command, user=NOBODY.uid, group=NOBODY.gid, extra_groups=[], cwd="/")
            assert output.endswith(b"(PostgreSQL) 18.4\n")
        assert reachable_copy(hidden, account=NOBODY, copies=folder / "copies") == copy


def test_programs_that_can_be_reached_are_not_copied(tmp_path: Path) -> None:
    assert reachable_copy(find_valkey(), account=None, copies=tmp_path) == find_valkey()


def test_a_short_path_keeps_its_sockets_inside() -> None:
    with open_folder() as folder:
        assert make_socket_folder(folder, None) == folder / "sockets"


def test_a_long_path_gets_a_short_socket_folder_of_its_own(tmp_path: Path) -> None:
    long_path = tmp_path / ("long" * 25)
    long_path.mkdir()

    socket_folder = make_socket_folder(long_path, None)

    try:
        assert len(os.fsencode(socket_folder)) <= 93
        assert socket_folder.stat().st_mode & 0o777 == 0o700
        assert make_socket_folder(long_path, None) == socket_folder
    finally:
        socket_folder.rmdir()


def test_a_link_in_the_place_of_a_private_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ServiceError, match="not the servers' own"):
        make_private_folder(tmp_path / "link", None)


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sockets").mkdir()
    (tmp_path / "sockets").chmod(0o755)

    with pytest.raises(ServiceError, match="mode 0700"):
        make_private_folder(tmp_path / "sockets", None)


def test_a_grown_log_moves_aside_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 1_500_000)
        bound_log(log)
        writer.write(b"new\n")

    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "server.log.1").stat().st_size == 6_000_000


def test_the_last_line_of_a_log_is_the_last_that_says_something(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(b"x\n" * 5000 + b"FATAL: no space\n\n \n")

    assert last_line(log) == "FATAL: no space"
