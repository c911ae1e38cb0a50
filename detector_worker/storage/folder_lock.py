"""One owner per folder: an advisory lock that the system itself takes back when the owner dies."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from detector_worker.core.exceptions import ServiceError

if sys.platform != "win32":
    import fcntl

__all__ = ["FolderLock"]

_PATIENCE_S: Final = 0.1
"""Whoever only asks whether the lock is held, holds it for an instant; that must not refuse an owner."""


class FolderLock:
    """Holds a lock file with ``flock``; the file tells others the holder's pid and what it wants them to know.

    The lock belongs to the open file, so a second lock of the same process is refused as well, and no child
    inherits it. It ends with the process, however that ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock at once or not at all.

        Raises:
            ServiceError: Another process, or another object of this one, holds it; or the file cannot be written.
        """
        if sys.platform == "win32":
            raise ServiceError(
                "The data folder cannot be locked on Windows", where=str(self._path), mend="Use Linux, macOS or WSL."
            )
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise ServiceError(
                f"The lock file cannot be opened: {exc.strerror}",
                where=str(self._path),
                mend="Give the worker's user write access, or choose another folder with --data-dir.",
            ) from exc
        if not _lock_within(descriptor, _PATIENCE_S):
            os.close(descriptor)
            raise ServiceError(
                f"The folder is in use by process {self.read().get('pid', 'unknown')}",
                where=str(self._path.parent),
                mend="Stop that worker first, or give this one a folder of its own with --data-dir.",
            )
        self._descriptor = descriptor
        self.publish({})

    def publish(self, note: Mapping[str, str]) -> None:
        """Write what others may read beside the holder's pid; only while the lock is held."""
        if self._descriptor is None:
            raise ServiceError("The lock is not held", where=str(self._path), mend="Take it before publishing.")
        content = json.dumps({"pid": os.getpid(), **note}).encode()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, content, 0)

    def read(self) -> Mapping[str, object]:
        """What the holder published last; empty where nothing readable is there."""
        try:
            content = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def is_held(self) -> bool:
        """True while some process, this one included, holds the lock."""
        if self._descriptor is not None or sys.platform == "win32":
            return self._descriptor is not None
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _lock_within(descriptor, 0.0)
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held. The file stays, so that no two files compete."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def _lock_within(descriptor: int, patience_s: float) -> bool:
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(0.01)
        else:
            return True
