"""Processes of the embedded servers: whose they are, how they start as children that die with us, how they end."""

import contextlib
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import psutil

from detector_worker.core.exceptions import ServiceError

__all__ = ["Account", "Ladder", "end_servers", "fingerprint", "last_words"]

Ladder: TypeAlias = Sequence[tuple[signal.Signals, float]]
"""Signals that end a server, gentlest first, and the seconds each is given."""

_ACCOUNTS: Final = ("postgres", "nobody")
_TOOL_LIMIT_S: Final = 60.0

# What only the child may do between fork and exec is done by a second program, because code of ours between the two
# is unsafe in a process with threads. The parent-death signal is cleared by setuid, so it is asked for after it; the
# parent may have died before that, so it is looked for last. Imports come first: the account may be unable to read
# the interpreter's folder.
_LAUNCHER: Final = """
import ctypes, os, sys
parent, death_signal, uid, gid = map(int, sys.argv[1:5])
libc = ctypes.CDLL(None)
if os.geteuid() != uid:
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)
if sys.platform == "linux":
    libc.prctl(1, death_signal)
if os.getppid() != parent:
    sys.exit("the worker is gone")
os.execv(sys.argv[5], sys.argv[5:])
"""


@dataclass(frozen=True, slots=True)
class Account:
    """The user whom the servers run as: the worker's own, unless that is root, whom PostgreSQL refuses."""

    name: str
    uid: int
    gid: int

    @classmethod
    def for_servers(cls, folder: Path) -> "Account":
        """Choose the account for the servers below ``folder``; what already belongs to somebody stays theirs."""
        if os.geteuid() != 0:
            return cls("you", os.geteuid(), os.getegid())
        owner = next((uid for path in (*folder.glob("*/"), folder) if (uid := path.stat().st_uid)), None)
        entries = [partial(pwd.getpwuid, owner)] if owner else [partial(pwd.getpwnam, name) for name in _ACCOUNTS]
        for entry in entries:
            with contextlib.suppress(KeyError):
                return cls(entry().pw_name, entry().pw_uid, entry().pw_gid)
        raise ServiceError(
            f"PostgreSQL does not run as root, and there is no account {owner or ' or '.join(_ACCOUNTS)}",
            where=str(folder),
            mend="Start the worker as an ordinary user, or create such an account.",
        )

    def launch(
        self, command: Sequence[str | Path], *, log: Path, death_signal: signal.Signals, stdin: int = subprocess.DEVNULL
    ) -> "subprocess.Popen[bytes]":
        """Start ``command`` with output appended to ``log``; it gets ``death_signal`` when *this thread* ends.

        So call it from a thread that lives as long as the child may. Where the system has no such signal (macOS) the
        child outlives a killed worker until the next start ends it. It has a session of its own: a Ctrl-C at the
        terminal is the worker's alone to answer.
        """
        numbers = map(str, (os.getpid(), int(death_signal), self.uid, self.gid))
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, *numbers, *map(str, command)],
                stdin=stdin,
                stdout=output,
                stderr=output,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
                cwd="/",
                umask=0o077,
                start_new_session=True,
            )
        finally:
            os.close(output)

    def run(self, command: Sequence[str | Path], *, log: Path, stdin: bytes = b"") -> int:
        """Run a tool to its end and return its exit code."""
        with self.launch(command, log=log, death_signal=signal.SIGKILL, stdin=subprocess.PIPE) as tool:
            try:
                tool.communicate(stdin, timeout=_TOOL_LIMIT_S)
            finally:
                tool.kill()
        return tool.returncode

    def can_enter(self, path: Path) -> bool:
        """True if the account may enter or execute ``path``, which all folders above it must allow as well."""
        question = ("/bin/sh", "-c", 'test -x "$0"', path)
        return self.uid == os.geteuid() or self.run(question, log=Path(os.devnull)) == 0

    def make_folder(self, folder: Path) -> None:
        """Make a folder that only this account may enter; where it is there already, it may be anybody's: an error."""
        folder.mkdir(mode=0o700)
        os.chown(folder, self.uid, self.gid)


def end_servers(mark: str, ladder: Ladder) -> None:
    """End every process that bears ``mark`` on its command line; none is left, not even a frozen one.

    Signals go to the server; its children, which the system shows as ``postgres: mark: task``, end with it. Only the
    last, SIGKILL, goes to all: a frozen child does not notice that its parent is gone.
    """
    for number, patience_s in (*ladder, (signal.SIGKILL, 1.0)):
        every = psutil.process_iter(["cmdline"])
        marked = [process for process in every if mark in " ".join(process.info["cmdline"] or ())]
        if not marked:
            return
        for process in marked:
            if number == signal.SIGKILL or not process.info["cmdline"][0].startswith("postgres:"):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
        psutil.wait_procs(marked, timeout=patience_s)


def last_words(log: Path) -> str:
    """The last two lines of a log that say anything, at most 400 characters."""
    lines = filter(None, map(str.strip, log.read_text("utf-8", "replace").splitlines()))
    return "; ".join(list(lines)[-2:])[-400:]


def fingerprint(folder: Path) -> str:
    """Tell a folder from every other of the machine, under whichever name and in whichever container."""
    status = folder.stat()
    return f"{status.st_dev:x}-{status.st_ino:x}"
