"""The folders and logs of the embedded servers: who may enter, where sockets fit, how large a log may grow."""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final

from detector_worker.core.exceptions import ServiceError
from detector_worker.storage.server_process import Account, first_closed_path

__all__ = [
    "bound_log",
    "last_line",
    "make_private_folder",
    "make_servers_folder",
    "make_socket_folder",
    "remove_socket_folder",
    "require_reachable",
    "sync_folder",
]

_SOCKET_FOLDER_LIMIT_BYTES: Final = 93
"""A socket's path holds 107 bytes, and PostgreSQL adds ``/.s.PGSQL.5432``; Valkey would cut it without a word."""
_LOG_LIMIT_BYTES: Final = 4 * 1024 * 1024


def make_servers_folder(folder: Path) -> None:
    """Make the folder that holds all the servers own, and its parents; others may pass through, but not look.

    Raises:
        ServiceError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o711)  # whatever the umask: as root, the servers' account must get through
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as exc:
        raise ServiceError(
            f"The data folder cannot be written: {exc.strerror}",
            where=str(folder),
            mend="Give the worker's user write access, or choose another folder with --data-dir.",
        ) from exc


def require_reachable(folder: Path, account: Account | None) -> None:
    """Refuse a folder that the servers' account cannot reach; opening the folders above it is their owner's to do.

    Raises:
        ServiceError: Names the folder that is closed.
    """
    closed = first_closed_path(account, folder)
    if closed is not None and account is not None:
        raise ServiceError(
            f"PostgreSQL refuses root, and {account.name}, as whom it would run, may not enter {closed}",
            where=str(folder),
            mend=f"Choose another folder with --data-dir, start as another user, or allow it: chmod o+x '{closed}'.",
        )


def make_private_folder(folder: Path, account: Account | None) -> None:
    """Make a folder that only its server may enter, or make sure that it is one.

    Raises:
        ServiceError: Somebody else's is there; in a temporary folder anybody may have made it before us.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    status, owner = folder.lstat(), os.geteuid() if account is None else account.uid
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and account is not None:
        os.chown(folder, account.uid, account.gid)
        status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner or stat.S_IMODE(status.st_mode) & 0o077:
        raise ServiceError(
            "The folder is not the servers' own",
            where=str(folder),
            mend=f"It must be a folder of user {owner} with mode 0700; move it away, and it is made anew.",
        )


def make_socket_folder(folder: Path, account: Account | None) -> Path:
    """Return a folder for sockets, short enough: below ``folder``, else in the system's run or temporary folder.

    Raises:
        ServiceError: Somebody else made the folder that we would use, or there is no place short enough.
    """
    name = f"detector-worker-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    shared = (Path("/run"), Path(tempfile.gettempdir()))  # /run is root's; no cleaner works there
    for candidate in (folder / "sockets", *(parent / name for parent in shared)):
        if len(os.fsencode(candidate)) <= _SOCKET_FOLDER_LIMIT_BYTES and os.access(candidate.parent, os.W_OK):
            make_private_folder(candidate, account)
            return candidate
    raise ServiceError(
        f"No writable folder for sockets has a path of at most {_SOCKET_FOLDER_LIMIT_BYTES} bytes",
        where=str(folder),
        mend="Choose a data folder with a shorter path with --data-dir.",
    )


def remove_socket_folder(socket_folder: Path, folder: Path) -> None:
    """Leave nothing in the run or temporary folder; below ``folder`` it may stay."""
    if not socket_folder.is_relative_to(folder):
        shutil.rmtree(socket_folder, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def last_line(log: Path) -> str:
    """The last line of a log that says anything, at most 300 characters."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as exc:
        return f"its log cannot be read: {exc.strerror}"
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")


def bound_log(log: Path) -> None:
    """Keep a log that its server goes on appending to below twice its limit: what is old goes to ``.1``, once."""
    with contextlib.suppress(OSError):  # a full disk must not stop the watch over the servers
        if log.stat().st_size > _LOG_LIMIT_BYTES:
            try:
                shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            finally:
                os.truncate(log, 0)
