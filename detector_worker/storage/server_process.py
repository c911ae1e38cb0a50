"""Starts a server as a child that dies with us, under an account that may run it, and stops it in bounded time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from detector_worker.core.exceptions import ServiceError

if sys.platform != "win32":
    import pwd

__all__ = ["Account", "choose_account", "first_closed_path", "launch", "stop_process"]

_ACCOUNTS: Final = ("postgres", "nobody")
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}

# What only the child may do between fork and exec is done by a second program, because code of ours between the two
# is unsafe in a process with threads. The parent-death signal is cleared by setuid, so it is asked for after it; the
# parent may have died before that, so it is looked for last. Imports come first: the account may be unable to read
# the interpreter's folder.
_LAUNCHER: Final = """
import ctypes, os, sys
parent, death_signal, uid, gid = map(int, sys.argv[1:5])
libc = ctypes.CDLL(None)
if uid >= 0:
    os.setgroups([gid])
    os.setgid(gid)
    os.setuid(uid)
os.umask(0o077)
if sys.platform == "linux":
    libc.prctl(1, death_signal)
if os.getppid() != parent:
    sys.exit("the worker is gone")
os.execv(sys.argv[5], sys.argv[5:])
"""


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine that servers run as."""

    name: str
    uid: int
    gid: int


def choose_account(folder: Path) -> Account | None:
    """Return whom the servers below ``folder`` must run as; None: the worker's own user will do.

    PostgreSQL refuses to run as root. What already belongs to somebody stays theirs.

    Raises:
        ServiceError: Root, and no account to become; or a user whom the system does not know by name.
    """
    if os.geteuid() != 0:
        _require_user_name(os.geteuid(), folder)
        return None
    for owned in (*folder.glob("*/"), folder):
        if owner := owned.stat().st_uid:
            entry = _require_user_name(owner, folder)
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    known = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in _ACCOUNTS:
        if name in known:
            return Account(name, known[name].pw_uid, known[name].pw_gid)
    raise ServiceError(
        f"PostgreSQL does not run as root, and none of the accounts {', '.join(_ACCOUNTS)} exists",
        where=str(folder),
        mend="Start the worker as an ordinary user, or create one of these accounts.",
    )


def first_closed_path(account: Account | None, path: Path) -> Path | None:
    """Return the uppermost of ``path`` and its parents that ``account`` may not enter or execute; None: all open."""
    if account is None:
        return None
    script = 'for path; do [ -x "$path" ] || { printf %s "$path"; exit 0; }; done'
    steps = [str(step) for step in (*reversed(path.parents), path)]
    asked = subprocess.run(  # noqa: S603 - our own script; the paths are arguments, not text of it
        ["/bin/sh", "-c", script, "sh", *steps],
        user=account.uid,
        group=account.gid,
        extra_groups=[account.gid],
        cwd="/",
        stdout=subprocess.PIPE,
        check=True,
        timeout=10,
    )
    return Path(os.fsdecode(asked.stdout)) if asked.stdout else None


def launch(
    arguments: Sequence[str | Path],
    *,
    account: Account | None,
    log: Path,
    death_signal: str,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start ``arguments`` with output appended to ``log``; the child gets ``death_signal`` when *this thread* ends.

    So call it from a thread that lives as long as the child may. Where the system has no such signal (macOS) the
    child outlives a killed worker until the next start finds it. The child has a session of its own: a Ctrl-C at
    the terminal is the worker's alone to answer.
    """
    uid, gid = (-1, -1) if account is None else (account.uid, account.gid)
    numbers = map(str, (os.getpid(), signal.Signals[death_signal].value, uid, gid))
    head = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *numbers]
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603 - our own launcher and the server's own binary
            [*head, *(str(argument) for argument in arguments)],
            stdin=stdin,
            stdout=output,
            stderr=output,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    finally:
        os.close(output)


def stop_process(pid: int, is_gone: Callable[[], bool], *, ladder: Sequence[tuple[str, float]]) -> None:
    """Send each signal of ``ladder`` and give it its seconds; whoever is left then is killed, children too."""
    for name, patience_s in ladder:
        if _signal_and_wait(pid, signal.Signals[name], is_gone, patience_s):
            return
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    _signal_and_wait(pid, signal.SIGKILL, is_gone, 0.5)
    for child in children:  # a frozen child does not notice that its parent is gone
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def _signal_and_wait(pid: int, number: signal.Signals, is_gone: Callable[[], bool], patience_s: float) -> bool:
    if is_gone():
        return True
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return True
    deadline_s = time.monotonic() + patience_s
    while not is_gone():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)  # nothing to await: an orphan is not our child
    return True


def _require_user_name(uid: int, folder: Path) -> "pwd.struct_passwd":
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise ServiceError(
            f"User {uid} has no entry in the system's user list, and PostgreSQL does not run without one",
            where=str(folder),
            mend="Add an entry to /etc/passwd, run as another user, or set the address of a PostgreSQL.",
        ) from None
