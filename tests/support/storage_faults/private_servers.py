"""A PostgreSQL and a Redis of one test's own: whatever is done to them lasts until the test ends it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import asyncpg
from redis.asyncio import Redis
from support.freezing import frozen
from support.storage_faults.proxy import FaultyProxy

from detector_worker.storage.database_manager import DatabaseConfig
from detector_worker.storage.embedded.embedded_servers import make_socket_folder
from detector_worker.storage.embedded.server_kinds import EmbeddedServer, PostgresqlServer, ValkeyServer
from detector_worker.storage.embedded.server_process import Account, end_servers

__all__ = ["PASSWORD", "PrivatePostgresql", "PrivateRedis", "PrivateServer", "connected"]

_TICK_S: Final = 0.02
_START_S: Final = 30.0
_USER: Final = "worker"
PASSWORD: Final = "first"  # noqa: S105 - of no secret
"""Where one is demanded."""
_OTHER_PASSWORD: Final = "second"  # noqa: S105
_NOBODY: Final = ("127.0.0.1", 1)
"""A primary that does not exist."""


class PrivateServer:
    """One server, unsupervised: a killed one stays dead until it is started again. Used on one event loop."""

    kind: ClassVar[type[EmbeddedServer]]

    def __init__(self, folder: Path) -> None:
        """``folder``: where its data and its socket shall be; every account may pass through the one above."""
        folder.mkdir(mode=0o711)
        account = Account.for_servers(folder)
        self.sockets = make_socket_folder(folder, account)
        self._server = self.kind(folder, sockets=self.sockets, account=account, notify=lambda *_: None)
        # The kernel ends a server with the thread that forked it: this one lives as long as the server may.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self.kind.name)
        self._ice = ExitStack()

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.sockets / self.kind.socket_name

    async def start(self) -> None:
        """Start it; it takes work when this returns."""
        give_up_s = time.monotonic() + _START_S
        while not self._server.is_ready:
            if time.monotonic() > give_up_s:
                raise self._server.failure
            await self._in_thread(lambda: self._server.step(time.monotonic()))
            await asyncio.sleep(_TICK_S)

    async def stop(self) -> None:
        """End it as an operator would; nothing happens where it is dead."""
        self.thaw()
        await self._in_thread(self._server.stop)

    async def kill(self) -> None:
        """End all its processes with SIGKILL."""
        await self._in_thread(lambda: end_servers(self._server.mark, ()))
        await self._in_thread(self._server.stop)  # which finds nothing and takes note of it

    async def freeze(self) -> None:
        """Halt all its processes; the kernel goes on taking connections and bytes for it."""
        assert self._server.pid is not None
        self._ice.enter_context(frozen(self._server.pid))

    def thaw(self) -> None:
        """Let it go on where it is frozen."""
        self._ice.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        self._thread.shutdown()

    async def _in_thread(self, call: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call)


class PrivatePostgresql(PrivateServer):
    """PostgreSQL on a Unix socket; its superuser needs no password, the user ``worker`` has to give one."""

    kind = PostgresqlServer

    def config(self, *, proxy: FaultyProxy | None = None, with_password: bool = False) -> DatabaseConfig:
        """Return how to reach it, as the superuser or as ``worker``."""
        host, port = (str(self.sockets), 5432) if proxy is None else ("127.0.0.1", proxy.port)
        user, password = (_USER, PASSWORD) if with_password else (PostgresqlServer.user, None)
        return DatabaseConfig(
            host=host,
            port=port,
            database=PostgresqlServer.database,
            user=user,
            password=password,
            connection_pool_size=2,
        )

    async def execute(self, *statements: str) -> None:
        """Carry out statements as the superuser, each in a transaction of its own."""
        async with connected(self.config()) as connection:
            for statement in statements:
                await connection.execute(statement)

    async def demote(self) -> None:
        """Make it a standby, as after a switch to another primary: it answers and refuses every write."""
        await self.stop()
        (self._server.folder / "standby.signal").touch()
        await self.start()

    async def promote(self) -> None:
        """Make it the primary again."""
        await self.execute("SELECT pg_promote()")

    async def demand_password(self) -> None:
        """Make the user ``worker`` and let nobody in as that user without its password."""
        rules = self._server.folder / "pg_hba.conf"
        rules.write_text(f"local all {_USER} scram-sha-256\n{rules.read_text()}")
        await self.execute(f"CREATE ROLE {_USER} SUPERUSER LOGIN PASSWORD '{PASSWORD}'", "SELECT pg_reload_conf()")

    async def change_password(self, *, back: bool = False) -> None:
        """Give that user another password, or its first one, and start the server anew."""
        await self.execute(f"ALTER ROLE {_USER} PASSWORD '{PASSWORD if back else _OTHER_PASSWORD}'")
        await self.stop()
        await self.start()


class PrivateRedis(PrivateServer):
    """Valkey, or Redis where that is installed, on a Unix socket."""

    kind = ValkeyServer

    def url(self, *, proxy: FaultyProxy | None = None, with_password: bool = False) -> str:
        """Return its address."""
        credentials = f":{PASSWORD}@" if with_password else ""
        return f"unix://{credentials}{self.socket}" if proxy is None else f"redis://{credentials}127.0.0.1:{proxy.port}"

    async def execute(self, *commands: tuple[str | int, ...], password: str | None = None) -> None:
        """Carry out commands."""
        async with Redis(unix_socket_path=str(self.socket), password=password) as client:
            execute: Any = client.execute_command  # redis-py declares no types for it
            for command in commands:
                await execute(*command)

    async def demote(self) -> None:
        """Make it the replica of nobody: it answers and refuses every write."""
        await self.execute(("REPLICAOF", *_NOBODY))

    async def promote(self) -> None:
        """Make it the primary again."""
        await self.execute(("REPLICAOF", "NO", "ONE"))

    async def demand_password(self) -> None:
        """Let nobody in without the first password, until it is started again."""
        await self.execute(("CONFIG", "SET", "requirepass", PASSWORD))

    async def change_password(self, *, back: bool = False) -> None:
        """Demand another password, or the first one again, and throw everybody out."""
        old, new = (_OTHER_PASSWORD, PASSWORD) if back else (PASSWORD, _OTHER_PASSWORD)
        await self.execute(
            ("CONFIG", "SET", "requirepass", new),
            ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
            ("CLIENT", "KILL", "TYPE", "pubsub"),
            password=old,
        )


@asynccontextmanager
async def connected(config: DatabaseConfig) -> AsyncIterator[asyncpg.Connection]:
    """Connect a driver to a database."""
    connection = await asyncpg.connect(
        host=config.host, port=config.port, user=config.user, password=config.password, database=config.database
    )
    try:
        yield connection
    finally:
        await connection.close()
