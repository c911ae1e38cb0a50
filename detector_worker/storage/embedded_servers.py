"""A PostgreSQL and a Valkey of our own, for whoever gives no addresses: the same SQL and commands as everywhere."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from detector_worker.core.exceptions import ServiceError
from detector_worker.storage.folder_lock import FolderLock
from detector_worker.storage.server_binaries import find_postgresql, find_valkey, reachable_copy
from detector_worker.storage.server_folders import (
    make_servers_folder,
    make_socket_folder,
    remove_socket_folder,
    require_reachable,
)
from detector_worker.storage.server_kinds import (
    POSTGRESQL_DATABASE,
    POSTGRESQL_USER,
    PostgresqlServer,
    Server,
    ValkeyServer,
)
from detector_worker.storage.server_process import Account, choose_account
from detector_worker.storage.server_supervision import ServiceState, SupervisedServer

__all__ = ["EmbeddedServers", "RunningServers", "ServiceState", "find_running_servers"]

_START_LIMIT_S: Final = 120.0
"""Crash recovery of a large database may take this long."""
_RETRY_LIMIT_S: Final = 15.0
"""At start only: how long a server that exits at once is tried again, since an old one may still be going."""
_STOP_LIMIT_S: Final = 9.0
_TICK_S: Final = 0.02

_FAULTS: Final = (OSError, psutil.Error, subprocess.SubprocessError)


@dataclass(frozen=True, slots=True)
class RunningServers:
    """What another process can learn of a running worker's servers."""

    pid: int
    """The worker's."""
    postgresql_socket_dir: Path | None
    redis_socket: Path | None


def find_running_servers(data_dir: Path) -> RunningServers | None:
    """Return where the servers of a data folder listen; None where none run there."""
    lock = FolderLock(data_dir.resolve() / "servers" / "lock")
    if not lock.is_held():
        return None
    note = lock.read()
    pid, folder, redis = note.get("pid"), note.get("postgresql_socket_dir"), note.get("redis_socket")
    if not isinstance(pid, int) or not (folder or redis):
        return None
    return RunningServers(pid, Path(str(folder)) if folder else None, Path(str(redis)) if redis else None)


class EmbeddedServers:
    """PostgreSQL and Valkey as children of this process, on Unix sockets, with their data below ``data_dir``.

    One thread starts them and lives as long as they do: the kernel ends a server when the thread that forked it
    ends, so a killed worker leaves none behind. The same thread starts a dead server again, for ever, with growing
    delays. All they own lies in ``data_dir/servers``, locked against a second worker.

    Args:
        data_dir: The worker's data folder; made where it is absent.
        postgresql: Run a PostgreSQL.
        redis: Run a Valkey.
        notify: Told each change, from the supervisor's thread; must not block and not raise.
    """

    postgresql_user = POSTGRESQL_USER
    postgresql_database = POSTGRESQL_DATABASE

    def __init__(
        self,
        data_dir: Path,
        *,
        postgresql: bool = True,
        redis: bool = True,
        notify: Callable[[ServiceState], None] | None = None,
    ) -> None:
        self._folder = data_dir.resolve() / "servers"
        self._wanted = postgresql, redis
        self._notify = notify or (lambda _: None)
        self._lock = FolderLock(self._folder / "lock")
        self._socket_dir: Path | None = None
        self._servers: list[SupervisedServer] = []
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def postgresql_socket_dir(self) -> Path:
        """What clients pass as ``host``; there is no password and no port to choose."""
        return self._require_socket_dir()

    @property
    def redis_socket(self) -> Path:
        """The socket of Valkey."""
        return self._require_socket_dir() / "valkey.sock"

    def processes(self) -> Mapping[str, int]:
        """The pids of the running servers, by name (``postgresql``, ``redis``)."""
        return {server.name: pid for server in self._servers if (pid := server.pid) is not None}

    def start(self) -> None:
        """Start the servers; they accept work when this returns.

        Raises:
            ServiceError: The folder is in use, cannot be written or reached, or a server does not come up.
        """
        if sys.platform == "win32":
            raise ServiceError(
                "Embedded servers do not run on Windows",
                where=str(self._folder),
                mend="Use Linux, macOS or WSL, or set the addresses of a PostgreSQL and a Redis.",
            )
        make_servers_folder(self._folder)
        self._lock.acquire()
        try:
            self._start_locked()
        except BaseException as exc:
            self.stop()
            if isinstance(exc, _FAULTS):
                raise ServiceError(
                    f"The embedded servers cannot be started: {exc}",
                    where=str(self._folder),
                    mend="Mend that, or set the addresses of a PostgreSQL and a Redis.",
                ) from exc
            raise

    def stop(self) -> None:
        """Stop the servers, within 10 s; nothing happens where none run."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_STOP_LIMIT_S)
            if self._thread.is_alive():
                raise ServiceError(
                    "The embedded servers did not stop in time",
                    where=str(self._folder),
                    mend=f"Their processes {dict(self.processes())} end with this one; look into their logs.",
                )
            self._thread = None
        self._servers = []
        if self._socket_dir is not None:
            remove_socket_folder(self._socket_dir, self._folder)
        self._socket_dir = None
        self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start_locked(self) -> None:
        self._stopping.clear()
        account = choose_account(self._folder)
        require_reachable(self._folder, account)
        self._socket_dir = make_socket_folder(self._folder, account)
        self._servers = self._make_servers(account)
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._supervise, args=(ready,), name="embedded-servers", daemon=True)
        self._thread.start()
        try:
            ready.result(_START_LIMIT_S)
        except TimeoutError:
            waiting = ", ".join(server.name for server in self._servers if not server.ready)
            raise ServiceError(
                f"No answer from {waiting} within {_START_LIMIT_S:.0f} s",
                where=str(self._folder),
                mend="Look into the logs there; after a crash of a large database simply start again.",
            ) from None
        postgresql, redis = self._wanted
        note = {"postgresql_socket_dir": str(self.postgresql_socket_dir)} if postgresql else {}
        self._lock.publish({**note, **({"redis_socket": str(self.redis_socket)} if redis else {})})

    def _make_servers(self, account: Account | None) -> list[SupervisedServer]:
        postgresql, redis = self._wanted
        copies, socket_dir = self._folder / "binaries", self._require_socket_dir()
        servers: list[SupervisedServer] = []
        if postgresql:
            log = self._folder / "postgresql.log"
            binary = reachable_copy(find_postgresql(), account=account, copies=copies)
            server: Server = PostgresqlServer(
                self._folder / "postgresql", binary=binary, socket_dir=socket_dir, account=account, log=log
            )
            servers.append(SupervisedServer(server, log, account, self._notify))
        if redis:
            binary = reachable_copy(find_valkey(), account=account, copies=copies)
            server = ValkeyServer(
                self._folder / "valkey", binary=binary, socket_path=self.redis_socket, account=account
            )
            servers.append(SupervisedServer(server, self._folder / "valkey.log", account, self._notify))
        return servers

    def _supervise(self, ready: "Future[None]") -> None:
        """The life of the supervisor's thread."""
        give_up_s = time.monotonic() + _RETRY_LIMIT_S
        try:
            while not self._stopping.wait(_TICK_S if not ready.done() else 10 * _TICK_S):
                self._step_all(ready, give_up_s)
        except Exception as exc:  # told to the caller of start(), who stops us
            if ready.done():
                raise
            ready.set_exception(exc)
            self._stopping.wait()
        finally:
            for server in self._servers:
                server.stop()

    def _step_all(self, ready: "Future[None]", give_up_s: float) -> None:
        now_s = time.monotonic()
        for server in self._servers:
            try:
                server.step(now_s)
            except (ServiceError, *_FAULTS) as exc:
                if not ready.done():
                    raise
                server.try_again(exc, now_s)
        if ready.done():
            return
        if all(server.ready for server in self._servers):
            ready.set_result(None)
            return
        for server in self._servers:
            if now_s > give_up_s and server.pid is None:
                raise ServiceError(
                    f"{server.name} does not start: {server.reason}",
                    where=str(self._folder),
                    mend="Its log lies in that folder.",
                )

    def _require_socket_dir(self) -> Path:
        if self._socket_dir is None:
            raise ServiceError(
                "The embedded servers are not running", where=str(self._folder), mend="Start them before asking."
            )
        return self._socket_dir
