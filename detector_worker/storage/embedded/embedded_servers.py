"""A PostgreSQL and a Valkey of our own, for whoever gives no addresses: the same SQL and commands as everywhere."""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from detector_worker.core.exceptions import ServiceError
from detector_worker.storage.embedded.server_kinds import EmbeddedServer, Notify, PostgresqlServer, ValkeyServer
from detector_worker.storage.embedded.server_process import Account, fingerprint
from detector_worker.storage.folder_lock import FolderLock

__all__ = ["EmbeddedServers", "Notify"]

_START_LIMIT_S: Final = 120.0
"""Crash recovery of a large database may take this long."""
_START_ATTEMPTS: Final = 4
"""What an earlier life has left may still be ending where we cannot see it, in another container."""
_STOP_LIMIT_S: Final = 9.0
_TICK_S: Final = 0.05
_SOCKET_FOLDER_LIMIT_BYTES: Final = 93
"""A socket's path holds 107 bytes, and PostgreSQL adds ``/.s.PGSQL.5432``; Valkey would cut it without a word."""


class EmbeddedServers:
    """PostgreSQL and Valkey as children of this process, on Unix sockets, with their data below ``data_dir``.

    One thread starts them and lives as long as they do: the kernel ends a server when the thread that forked it
    ends, so a killed worker leaves none behind. The same thread starts a dead server again, for ever, with growing
    delays. All they own lies in ``data_dir/servers``, locked against a second worker.
    """

    postgresql_user = PostgresqlServer.user
    postgresql_database = PostgresqlServer.database
    postgresql_socket_dir: Path
    """What clients pass as ``host``, known once it is started; there is no password and no port to choose."""
    redis_socket: Path

    def __init__(
        self, data_dir: Path, *, postgresql: bool = True, redis: bool = True, notify: Notify = lambda *_: None
    ) -> None:
        self._folder = data_dir.resolve() / "servers"
        self._kinds: list[type[EmbeddedServer]] = [PostgresqlServer] * postgresql + [ValkeyServer] * redis
        self._notify = notify
        self._servers: list[EmbeddedServer] = []
        self._running = ExitStack()

    def processes(self) -> Mapping[str, int]:
        """The pids of the running servers, by name (``postgresql``, ``redis``)."""
        return {server.name: pid for server in self._servers if (pid := server.pid) is not None}

    def start(self) -> None:
        """Start the servers; they take work when this returns. Else ServiceError tells why, and nothing is left."""
        try:
            with ExitStack() as undo:
                self._start(undo)
                self._running = undo.pop_all()
        except (OSError, subprocess.SubprocessError) as exc:
            raise ServiceError(
                f"The embedded servers cannot be started: {exc}",
                where=str(self._folder),
                mend="Give the worker's user write access, or choose another folder with --data-dir.",
            ) from exc

    def stop(self) -> None:
        """Stop the servers, within 10 s; nothing happens where none run."""
        self._running.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, undo: ExitStack) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o711)  # whatever the umask: as root, the servers' account must get through
        lock = FolderLock(self._folder / "lock")
        lock.acquire()
        undo.callback(lock.release)
        account = Account.for_servers(self._folder)
        _require_reachable(self._folder, account)
        sockets = make_socket_folder(self._folder, account)
        undo.callback(shutil.rmtree, sockets, ignore_errors=True)
        self.postgresql_socket_dir, self.redis_socket = sockets, sockets / ValkeyServer.socket_name
        self._servers = [
            kind(self._folder, sockets=sockets, account=account, notify=self._notify) for kind in self._kinds
        ]
        stopping = threading.Event()
        thread = threading.Thread(target=self._supervise, args=(stopping,), name="embedded-servers", daemon=True)
        thread.start()
        undo.callback(self._end_supervision, thread, stopping)
        give_up_s = time.monotonic() + _START_LIMIT_S
        while not all(server.is_ready for server in self._servers):
            for server in self._servers:
                if server.backoff.errors >= _START_ATTEMPTS or time.monotonic() > give_up_s:
                    raise server.failure
            time.sleep(_TICK_S)

    def _supervise(self, stopping: threading.Event) -> None:
        """The life of the supervisor's thread."""
        while not stopping.wait(_TICK_S):
            for server in self._servers:
                server.step(time.monotonic())
        with ThreadPoolExecutor(len(self._servers)) as side_by_side:
            for ending in [side_by_side.submit(server.stop) for server in self._servers]:
                ending.result()

    def _end_supervision(self, thread: threading.Thread, stopping: threading.Event) -> None:
        stopping.set()
        thread.join(_STOP_LIMIT_S)
        if thread.is_alive():
            raise ServiceError(
                f"The embedded servers {dict(self.processes())} did not stop in time",
                where=str(self._folder),
                mend="They end with this process; look into their logs there.",
            )


def _require_reachable(folder: Path, account: Account) -> None:
    """Refuse a folder that the servers' account cannot reach; opening the folders above it is their owner's to do."""
    if not account.can_enter(folder):
        closed = next(step for step in (*reversed(folder.parents), folder) if not account.can_enter(step))
        raise ServiceError(
            f"PostgreSQL refuses root, and {account.name}, as whom it would run, may not enter {closed}",
            where=str(folder),
            mend=f"Choose another folder with --data-dir, start as another user, or allow it: chmod o+x '{closed}'.",
        )


def make_socket_folder(folder: Path, account: Account) -> Path:
    """Make an empty folder for sockets with a short path: below ``folder``, else in the run or temporary folder."""
    name = f"detector-worker-{fingerprint(folder)}"
    for sockets in (folder / "sockets", Path("/run", name), Path(tempfile.gettempdir(), name)):
        if len(os.fsencode(sockets)) <= _SOCKET_FOLDER_LIMIT_BYTES and os.access(sockets.parent, os.W_OK):
            shutil.rmtree(sockets, ignore_errors=True)  # of a killed worker
            account.make_folder(sockets)
            return sockets
    raise ServiceError(
        f"No writable folder for sockets has a path of at most {_SOCKET_FOLDER_LIMIT_BYTES} bytes",
        where=str(folder),
        mend="Choose a data folder with a shorter path with --data-dir.",
    )
