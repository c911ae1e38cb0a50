"""One owner per folder: an advisory lock that the system itself takes back when the owner dies."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from detector_worker.core.exceptions import ServiceError

try:
    import fcntl
except ImportError as exc:
    raise ImportError("detector-worker runs on Linux and macOS; on Windows use WSL.") from exc

__all__ = ["FolderLock"]

_ATTEMPTS: Final = 10
"""Whoever reads holds the lock for an instant; that must not refuse an owner."""
_NOT_HELD: Final = -1


class FolderLock:
    """Holds a lock file with ``flock``; the file tells others the holder's pid and what it wants them to know.

    The lock belongs to the open file: a second one of the same process is refused as well, and no child inherits it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = _NOT_HELD

    def acquire(self) -> None:
        """Take the lock at once, or raise ServiceError."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise ServiceError(
                f"The lock file cannot be opened: {exc.strerror}",
                where=str(self._path),
                mend="Give the worker's user write access, or choose another folder with --data-dir.",
            ) from exc
        for _ in range(_ATTEMPTS):
            if _try_lock(descriptor):
                self._descriptor = descriptor
                self.publish({})
                return
            time.sleep(0.01)
        os.close(descriptor)
        raise ServiceError(
            f"The folder is in use by process {self.read().get('pid', 'unknown')}",
            where=str(self._path.parent),
            mend="Stop that worker first, or give this one a folder of its own with --data-dir.",
        )

    def publish(self, note: Mapping[str, str]) -> None:
        """Write what others may read beside the holder's pid; only while the lock is held."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps({"pid": os.getpid(), **note}).encode(), 0)

    def read(self) -> Mapping[str, object]:
        """What the living holder published last; empty where nobody holds the lock."""
        try:
            with self._path.open("rb") as file:
                note = {} if _try_lock(file.fileno()) else json.loads(file.read())
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held. The file stays, so that no two files compete."""
        if self._descriptor != _NOT_HELD:
            os.close(self._descriptor)
            self._descriptor = _NOT_HELD


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
