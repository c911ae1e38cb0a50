"""Processes that stand still for a while, and no longer than the test."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

__all__ = ["frozen"]


@contextmanager
def frozen(*pids: int) -> Iterator[list[psutil.Process]]:
    """Freeze processes and all their children; they thaw afterwards, even where the test itself is killed."""
    servers = [psutil.Process(pid) for pid in pids]
    family = [process for server in servers for process in (server, *server.children(recursive=True))]
    thaw = ["sh", "-c", 'read _; kill -CONT "$@"', "sh", *(str(process.pid) for process in family)]
    with subprocess.Popen(thaw, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True):
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield family
