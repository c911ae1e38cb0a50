"""What differs between PostgreSQL and Valkey: how a folder is made, a server started, seen ready and recognised."""

import contextlib
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

import psutil

from detector_worker.core.exceptions import ServiceError
from detector_worker.storage.server_binaries import ServerBinary
from detector_worker.storage.server_folders import last_line, make_private_folder, sync_folder
from detector_worker.storage.server_process import Account, launch

__all__ = ["POSTGRESQL_DATABASE", "POSTGRESQL_USER", "PostgresqlServer", "Server", "ValkeyServer"]

POSTGRESQL_USER: Final = "dw"
POSTGRESQL_DATABASE: Final = "detector_worker"
_TOOL_TIMEOUT_S: Final = 60.0
_POSTGRESQL_SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "wal_level": "minimal",  # nobody replicates from us
    "max_wal_senders": "0",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "io_method": "sync",  # three processes less
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_VALKEY_SETTINGS: Final = {
    "port": "0",
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory-policy": "noeviction",
    "set-proc-title": "no",  # else the folder is not to be read in the process list
    "logfile": "",
}


class PostgresqlServer:
    """PostgreSQL 18 on a Unix socket: trust authentication, behind a socket that only our user may open."""

    name = "postgresql"
    ladder = (("SIGINT", 3.0), ("SIGQUIT", 1.0))
    """How it is stopped, and the seconds for each: sessions are ended and all is written; then recovery is left
    to the next start. The first is also what it gets when the worker dies."""

    def __init__(
        self, folder: Path, *, binary: ServerBinary, socket_dir: Path, account: Account | None, log: Path
    ) -> None:
        self.folder, self._binary, self._socket_dir, self._account, self._log = folder, binary, socket_dir, account, log

    def prepare(self) -> None:
        version_file = self.folder / "PG_VERSION"
        if not version_file.is_file():
            self._make_cluster()
        version = version_file.read_text("ascii").strip()
        if version != str(self._binary.version[0]):
            raise ServiceError(
                f"The data was written by PostgreSQL {version}; this is PostgreSQL {self._binary.version[0]}",
                where=str(self.folder),
                mend="Dump it with the old version and restore it with this one, or choose another data folder.",
            )

    def _make_cluster(self) -> None:
        """Make it beside its place and move it there when it is whole: a kill midway leaves nothing half-made."""
        unfinished = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        make_private_folder(unfinished, self._account)
        options = ["-U", POSTGRESQL_USER, "--auth=trust", "-E", "UTF8", "--locale=C"]
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "-D", str(unfinished)]
        self._run_tool([self._binary.path.with_name("initdb"), *options])
        single: list[str | Path] = [self._binary.path, "--single", "-j", "-D", unfinished, "postgres"]
        self._run_tool(single, f"CREATE DATABASE {POSTGRESQL_DATABASE}".encode())
        unfinished.rename(self.folder)
        sync_folder(self.folder.parent)

    def _run_tool(self, arguments: list[str | Path], standard_input: bytes = b"") -> None:
        pipe = subprocess.PIPE
        with launch(arguments, account=self._account, log=self._log, death_signal="SIGKILL", stdin=pipe) as tool:
            try:
                tool.communicate(standard_input, timeout=_TOOL_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                tool.kill()
        if tool.returncode:
            raise ServiceError(
                f"{Path(arguments[0]).name} failed with exit code {tool.returncode}: {last_line(self._log)}",
                where=str(self.folder),
                mend=f"Look into {self._log}; is the disk full?",
            )

    def arguments(self) -> list[str | Path]:
        quoted = str(self._socket_dir).replace('"', '""')  # the setting is a list; a quoted entry may hold anything
        settings = {**_POSTGRESQL_SETTINGS, "unix_socket_directories": f'"{quoted}"'}
        options = [option for key, value in settings.items() for option in ("-c", f"{key}={value}")]
        return [self._binary.path, "-D", self.folder, *options]

    def is_ready(self, pid: int) -> bool:
        """Read what the server itself writes of its state: line 1 the pid, line 8 the state.

        A file of the last life may name the same pid, as pids repeat in containers; its socket answers nobody.
        """
        lines = self._pid_file_lines()
        ready = len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"
        return ready and ask(self._socket_dir / ".s.PGSQL.5432") is not None

    def orphan(self) -> psutil.Process | None:
        """Find the server that a killed worker left, by its pid file.

        A file that names somebody else's living process would keep PostgreSQL from starting for ever, so it goes.
        """
        lines = self._pid_file_lines()
        if not lines or not lines[0].strip().isdigit():
            return None
        pid = int(lines[0])
        process = server_process(pid, self.folder, ("postgres",))
        if process is None and psutil.pid_exists(pid):
            (self.folder / "postmaster.pid").unlink(missing_ok=True)
        return process

    def _pid_file_lines(self) -> list[str]:
        try:
            return (self.folder / "postmaster.pid").read_text("utf-8", "replace").splitlines()
        except OSError:
            return []


class ValkeyServer:
    """Valkey, or Redis where that is what is installed: append-only file, no eviction, on a Unix socket."""

    name = "redis"
    ladder = (("SIGTERM", 1.5),)

    def __init__(self, folder: Path, *, binary: ServerBinary, socket_path: Path, account: Account | None) -> None:
        self.folder, self._binary, self._socket, self._account = folder, binary, socket_path, account
        self._version_file = folder.with_name(f"{folder.name}.version")
        self._pid_file = folder / "server.pid"

    def prepare(self) -> None:
        """Refuse data of a newer server: an older one would start empty, or not at all, and say little."""
        ours = (self._binary.product, *self._binary.version)
        make_private_folder(self.folder, self._account)
        theirs = self._recorded_version()
        if theirs is not None and not can_read(ours, theirs):
            raise ServiceError(
                f"The data was written by {' '.join(map(str, theirs))}; this is {' '.join(map(str, ours))}",
                where=str(self.folder),
                mend="Install that version or a newer one, or choose another data folder.",
            )
        if theirs != ours:
            new = self._version_file.with_suffix(".new")
            new.write_text(" ".join(map(str, ours)), "ascii")
            new.replace(self._version_file)

    def _recorded_version(self) -> tuple[str, int, int] | None:
        if not self._version_file.is_file():
            return None
        product, major, minor = self._version_file.read_text("ascii").split()
        return product, int(major), int(minor)

    def arguments(self) -> list[str | Path]:
        settings = {
            **_VALKEY_SETTINGS,
            "dir": str(self.folder),
            "unixsocket": str(self._socket),
            "pidfile": str(self._pid_file),
        }
        options = [option for key, value in settings.items() for option in (f"--{key}", value)]
        return [self._binary.path, *options]

    def is_ready(self, pid: int) -> bool:
        """True once it answers; while it loads its file it says so instead."""
        return self._read_pid() == pid and ask(self._socket, b"PING\r\n") == b"+PONG\r\n"

    def orphan(self) -> psutil.Process | None:
        pid = self._read_pid()
        return server_process(pid, self.folder, ("valkey-server", "redis-server")) if pid else None

    def _read_pid(self) -> int | None:
        try:
            return int(self._pid_file.read_text("ascii"))
        except (OSError, ValueError):
            return None


Server = PostgresqlServer | ValkeyServer
"""Every kind that is embedded; their methods are called by the supervisor's thread alone."""


def can_read(ours: tuple[str, int, int], theirs: tuple[str, int, int]) -> bool:
    """True if a server (product, major, minor) reads what the other wrote. Valkey descends from Redis 7.2."""
    if ours[0] == theirs[0]:
        return ours[1] >= theirs[1]
    return ours[0] == "valkey" and theirs[1:] <= (7, 2)


def ask(socket_path: Path, question: bytes = b"") -> bytes | None:
    """Return the answer of whoever listens on a socket; None: nobody does."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(socket_path))
            client.sendall(question)
            return client.recv(64) if question else b""
        except OSError:
            return None


def server_process(pid: int, folder: Path, programs: tuple[str, ...]) -> psutil.Process | None:
    """Return the process if it lives and is one of ``programs`` on ``folder``; a pid alone proves nothing."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        command = process.cmdline()
        named = bool(command) and Path(command[0]).name in programs and str(folder) in command
        if named and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None
