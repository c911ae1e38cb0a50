"""The embedded servers against real faults: every kill here is a real one."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import filterfalse
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis
from support.folders import open_folder
from support.freezing import frozen
from support.waiting import wait_until

from detector_worker.core.exceptions import ServiceError
from detector_worker.core.singleton_managers import ServiceState
from detector_worker.storage.embedded import embedded_servers
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
from detector_worker.storage.embedded.server_kinds import PostgresqlServer, ValkeyServer
from detector_worker.storage.embedded.server_process import Account

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")

OWNER = """
import pathlib, sys, time
from detector_worker.storage.embedded.embedded_servers import EmbeddedServers
servers = EmbeddedServers(pathlib.Path(sys.argv[1]))
servers.start()
print(*servers.processes().values(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen servers are killed at once, and what does not start is not tried again."""
    for kind in (PostgresqlServer, ValkeyServer):
        monkeypatch.setattr(kind, "ladder", ((signal.SIGINT, 0.3),))
    monkeypatch.setattr(embedded_servers, "_START_ATTEMPTS", 1)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A data folder that one test after the other uses, since making a database takes a second or more."""
    with open_folder() as parent:
        yield parent / "data"


@pytest.fixture
def new_folder() -> Iterator[Path]:
    with open_folder() as parent:
        yield parent / "data"


def connect(servers: EmbeddedServers) -> "asyncio.Future[asyncpg.Connection]":
    return asyncio.ensure_future(
        asyncpg.connect(
            host=str(servers.postgresql_socket_dir),
            user=servers.postgresql_user,
            database=servers.postgresql_database,
            timeout=5,
        )
    )


async def insert(servers: EmbeddedServers, *numbers: int) -> None:
    connection = await connect(servers)
    await connection.execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept (number int)")
    await connection.executemany("INSERT INTO kept VALUES ($1)", [(number,) for number in numbers])
    await connection.close()


async def kept(servers: EmbeddedServers) -> list[int]:
    connection = await connect(servers)
    rows = await connection.fetch("SELECT number FROM kept ORDER BY number")
    await connection.close()
    return [row["number"] for row in rows]


async def redis_call(servers: EmbeddedServers, call: Callable[["Redis"], Any]) -> Any:
    async with Redis(unix_socket_path=str(servers.redis_socket)) as redis:
        return await call(redis)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def start_as_the_servers_do(folder: Path, *command: str) -> "subprocess.Popen[bytes]":
    account = Account.for_servers(folder / "servers")
    if os.geteuid() == account.uid:
        return subprocess.Popen(command, cwd="/")
    return subprocess.Popen(command, cwd="/", user=account.uid, group=account.gid, extra_groups=[])


class Notes(list[ServiceState]):
    def add(self, _: str, state: ServiceState | None) -> None:
        if state is not None:
            self.append(state)

    def is_back(self, killed: int) -> bool:
        return self[-1].state == "ok" and self[-1].pid != killed


def start_owner(folder: Path) -> tuple["subprocess.Popen[str]", list[int]]:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    return owner, [int(pid) for pid in owner.stdout.readline().split()]


async def test_data_outlives_a_restart(new_folder: Path) -> None:
    with EmbeddedServers(new_folder) as servers:
        await insert(servers, 1, 2)
        await redis_call(servers, lambda redis: redis.set("plate", "KN AB 1"))

    with EmbeddedServers(new_folder) as servers:
        assert await kept(servers) == [1, 2]
        assert await redis_call(servers, lambda redis: redis.get("plate")) == b"KN AB 1"


def test_stop_leaves_no_process_and_can_be_called_again(folder: Path) -> None:
    servers = EmbeddedServers(folder)
    servers.start()
    pids = servers.processes().values()
    family = [child.pid for pid in pids for child in psutil.Process(pid).children(recursive=True)] + list(pids)

    servers.stop()
    servers.stop()

    assert len(family) > 2
    assert not [pid for pid in family if psutil.pid_exists(pid)]
    assert servers.processes() == {}


@pytest.mark.faults
async def test_a_killed_postgresql_comes_back_with_every_row(folder: Path) -> None:
    states = Notes()
    with EmbeddedServers(folder, redis=False, notify=states.add) as servers:
        await insert(servers, *range(100))
        killed = servers.processes()["postgresql"]
        os.kill(killed, signal.SIGKILL)

        await wait_until(lambda: states.is_back(killed), timeout_s=10)

        assert await kept(servers) == list(range(100))
        assert "exit code -9" in next(state.detail for state in states if state.detail)


@pytest.mark.faults
async def test_a_killed_valkey_comes_back_with_every_key(folder: Path) -> None:
    states = Notes()
    with EmbeddedServers(folder, postgresql=False, notify=states.add) as servers:
        await redis_call(servers, lambda redis: redis.mset({f"key-{n}": n for n in range(100)}))
        killed = servers.processes()["redis"]
        os.kill(killed, signal.SIGKILL)

        await wait_until(lambda: states.is_back(killed), timeout_s=10)

        assert await redis_call(servers, lambda redis: redis.dbsize()) >= 100


@pytest.mark.faults
async def test_after_its_owner_is_killed_the_next_one_serves_every_row(folder: Path) -> None:
    owner, pids = start_owner(folder)
    with owner:
        sockets = folder / "servers" / "sockets"
        connection = await asyncpg.connect(host=str(sockets), user="dw", database="detector_worker")
        await connection.execute("DROP TABLE IF EXISTS kept; CREATE TABLE kept (number int)")
        await connection.execute("INSERT INTO kept SELECT generate_series(1, 500)")
        owner.kill()

    async with asyncio.timeout(10):
        servers = EmbeddedServers(folder)
        await asyncio.to_thread(servers.start)
    connection.terminate()
    try:
        assert len(pids) == 2
        assert not set(pids) & set(servers.processes().values())
        assert await kept(servers) == list(range(1, 501))
    finally:
        servers.stop()


@pytest.mark.faults
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
async def test_no_server_outlives_a_killed_owner(folder: Path) -> None:
    owner, pids = start_owner(folder)
    with owner:
        owner.kill()

    try:
        await wait_until(lambda: all(map(is_gone, pids)), timeout_s=5)
    finally:
        for pid in filterfalse(is_gone, pids):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.faults
async def test_an_orphan_of_an_earlier_owner_is_stopped_and_replaced(folder: Path) -> None:
    with EmbeddedServers(folder) as servers:
        await insert(servers, 7)
        commands = [psutil.Process(pid).cmdline() for pid in servers.processes().values()]
    sockets = folder / "servers" / "sockets"
    Account.for_servers(folder / "servers").make_folder(sockets)
    orphans = [start_as_the_servers_do(folder, *command) for command in commands]
    try:
        await wait_until((sockets / "valkey.sock").exists)
        await wait_until(lambda: "ready" in (folder / "servers" / "postgresql" / "postmaster.pid").read_text())

        with EmbeddedServers(folder) as servers:
            assert [orphan.wait(timeout=5) for orphan in orphans] == [0, 0]
            assert await kept(servers) == [7]
    finally:
        for orphan in orphans:
            orphan.kill()
            orphan.wait()


@pytest.mark.faults
async def test_a_stale_pid_file_that_names_a_living_stranger_does_not_stop_a_start(folder: Path) -> None:
    with EmbeddedServers(folder, redis=False):
        pass
    with start_as_the_servers_do(folder, "/bin/sleep", "60") as stranger:
        (folder / "servers" / "postgresql" / "postmaster.pid").write_text(f"{stranger.pid}\n/elsewhere\n1\n5432\n")

        with EmbeddedServers(folder, redis=False) as servers:
            await insert(servers, 1)
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.faults
async def test_a_half_made_database_is_made_anew(new_folder: Path) -> None:
    half_made = new_folder / "servers" / "postgresql.new"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")

    with EmbeddedServers(new_folder, redis=False) as servers:
        await insert(servers, 1)

    assert not half_made.exists()


@pytest.mark.faults
async def test_frozen_servers_are_stopped(folder: Path, impatient: None) -> None:
    servers = EmbeddedServers(folder)
    servers.start()
    with frozen(*servers.processes().values()) as family:
        await asyncio.to_thread(servers.stop)

        assert len(family) > 4
        await wait_until(lambda: all(is_gone(process.pid) for process in family))


@pytest.mark.faults
async def test_a_postgresql_that_died_before_its_frozen_children_comes_back(folder: Path, impatient: None) -> None:
    states = Notes()
    with EmbeddedServers(folder, redis=False, notify=states.add) as servers:
        await insert(servers, 1)
        killed = servers.processes()["postgresql"]
        with frozen(killed) as family:
            os.kill(killed, signal.SIGKILL)

            await wait_until(lambda: states.is_back(killed), timeout_s=15)

            await wait_until(lambda: all(is_gone(process.pid) for process in family))
        assert await kept(servers) == [1]


@pytest.mark.faults
async def test_frozen_children_of_a_killed_owner_are_ended_by_the_next_start(folder: Path, impatient: None) -> None:
    owner, pids = start_owner(folder)
    with owner, frozen(*pids) as family:
        owner.kill()

        with EmbeddedServers(folder) as servers:
            assert set(servers.processes()) == {"postgresql", "redis"}
            await wait_until(lambda: all(is_gone(process.pid) for process in family))


def test_a_second_owner_is_refused_at_once(servers: EmbeddedServers) -> None:
    second = EmbeddedServers(servers._folder.parent)

    with pytest.raises(ServiceError, match=f"in use by process {os.getpid()} "):
        second.start()
    assert len(servers.processes()) == 2


async def test_a_very_long_path_with_spaces_works(new_folder: Path) -> None:
    long_path = new_folder / 'a "quoted", folder' / ("very long " * 12).strip()

    with EmbeddedServers(long_path) as servers:
        await insert(servers, 1)
        assert await redis_call(servers, lambda redis: redis.ping())
        socket_dir = servers.postgresql_socket_dir

    assert not socket_dir.exists()


async def test_a_short_path_with_spaces_and_quotes_works(new_folder: Path) -> None:
    with EmbeddedServers(new_folder / 'a "b", c') as servers:
        assert servers.postgresql_socket_dir.is_relative_to(new_folder)
        await insert(servers, 1)
        assert await redis_call(servers, lambda redis: redis.ping())


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ServiceError, match=r"cannot be started: .*Not a directory"):
        EmbeddedServers(tmp_path / "file" / "data").start()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)

    with pytest.raises(ServiceError, match=r"cannot be started: .*Permission denied"):
        EmbeddedServers(tmp_path).start()


@needs_root
def test_a_folder_that_the_servers_cannot_reach_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    with pytest.raises(ServiceError, match="chmod o\\+x") as refusal:
        EmbeddedServers(tmp_path / "data").start()
    assert "may not enter /" in refusal.value.what
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_data_of_a_newer_server_is_refused(new_folder: Path, impatient: None) -> None:
    with EmbeddedServers(new_folder, postgresql=False):
        pass
    base = next((new_folder / "servers" / "redis").rglob("*.base.rdb"))
    base.write_bytes(b"VALKEY099" + base.read_bytes()[9:])

    with pytest.raises(ServiceError, match=r"redis does not run: exit code 1: .*RDB format version 99"):
        EmbeddedServers(new_folder, postgresql=False).start()


def test_data_of_another_postgresql_is_refused(new_folder: Path, impatient: None) -> None:
    with EmbeddedServers(new_folder, redis=False):
        pass
    (new_folder / "servers" / "postgresql" / "PG_VERSION").write_text("17\n")

    with pytest.raises(ServiceError, match="initialized by PostgreSQL version 17"):
        EmbeddedServers(new_folder, redis=False).start()


async def test_only_our_own_user_may_open_the_sockets(servers: EmbeddedServers) -> None:
    for path in (servers.postgresql_socket_dir, servers.redis_socket):
        assert path.stat().st_mode & 0o077 == 0


async def test_text_is_utf8_and_writes_are_synced(servers: EmbeddedServers) -> None:
    connection = await connect(servers)
    settings = [
        await connection.fetchval(f"SHOW {name}") for name in ("server_encoding", "fsync", "synchronous_commit")
    ]
    upper = await connection.fetchval("SELECT upper('é')")
    await connection.close()

    assert settings == ["UTF8", "on", "on"]
    assert upper == "É"
    config = await redis_call(servers, lambda redis: redis.config_get("appendonly", "appendfsync", "maxmemory-policy"))
    assert config == {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
