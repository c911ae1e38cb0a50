"""Folders that the embedded servers may use."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from detector_worker.storage.embedded.server_process import fingerprint

__all__ = ["open_folder"]


@contextmanager
def open_folder() -> Iterator[Path]:
    """Give a temporary folder that every account may pass through, and remove it afterwards.

    pytest's own are closed to the account that servers take when the tests run as root.

    Raises:
        AssertionError: A server of that folder was left running; it is killed.
    """
    folder = Path(tempfile.mkdtemp(prefix="dw-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        left = _kill_servers(folder)
        shutil.rmtree(folder)
    assert not left


def _kill_servers(folder: Path) -> list[str]:
    marks = [f"dw-{fingerprint(lock.parent)}-" for lock in folder.rglob("servers/lock")]
    commands = {process: " ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])}
    left = {process: command for process, command in commands.items() if any(mark in command for mark in marks)}
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=5)
    return list(left.values())
