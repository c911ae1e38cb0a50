"""The child's side of `confined_child`: it gives up what it could do harm with, before it reads anything strange."""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from detector_worker.core.exceptions import DetectorWorkerError

__all__ = ["OUT_OF_MEMORY", "Child", "run_as_child"]

OUT_OF_MEMORY: Final = (
    "bad_alloc",
    "bad allocation",
    "annot allocate",
    "an't alloc",
    "MemoryError",
    "ailed to allocate",
)
"""How runtimes and the interpreter say that there is no more memory."""
# linux/prctl.h, linux/sched.h, linux/capability.h
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAP_DAC_READ_SEARCH: Final = 1 << 2


class Child:
    """What the work is given: its job, a way to answer, and a way to say that its libraries are loaded."""

    def __init__(self, job: dict[str, Any], answers: Any, memory_bytes: int | None) -> None:
        self.job, self._answers, self._memory_bytes = job, answers, memory_bytes

    def tell(self, **answer: int | str) -> None:
        """Answer; what was told counts even if the process ends badly later."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def bound_memory(self) -> None:
        """Allow so many more bytes of addresses than are mapped now, however much the libraries have mapped."""
        if self._memory_bytes is not None and sys.platform == "linux":
            mapped_pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
            mapped_bytes = mapped_pages * os.sysconf("SC_PAGE_SIZE")
            _limit("RLIMIT_AS", mapped_bytes + self._memory_bytes)


def run_as_child(work: Callable[[Child], None]) -> None:
    """Confine this process, do the work, and tell a refusal; any other error ends the process, which tells enough."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    order = json.load(sys.stdin)
    _confine(order["parent"], order["cpu_seconds"], order["file_bytes"])
    child = Child(order["job"], answers, order["memory_bytes"])
    try:
        work(child)
    except DetectorWorkerError as exc:
        if isinstance(exc.__cause__, MemoryError) or any(sign in exc.what for sign in OUT_OF_MEMORY):
            sys.exit("MemoryError")
        child.tell(what=exc.what, mend=exc.mend)


def _confine(parent: int, cpu_seconds: int, file_bytes: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # No network, where the system lets us have a name space without one. An ordinary user needs one for users
        # first, which also closes the parent's memory and variables; root would lose its way into others' folders.
        libc.unshare(_CLONE_NEWNET if os.geteuid() == 0 else _CLONE_NEWUSER | _CLONE_NEWNET)
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        kept = _CAP_DAC_READ_SEARCH if os.geteuid() == 0 else 0
        libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept))
    if os.getppid() != parent:
        sys.exit("the worker is gone")
    _limit("RLIMIT_CPU", cpu_seconds)
    _limit("RLIMIT_FSIZE", file_bytes)
    _limit("RLIMIT_CORE", 0)
    _limit("RLIMIT_NOFILE", 256)


def _limit(name: str, most: int) -> None:
    """Lower one limit for good; where the system has none of that name, or a lower one, nothing happens."""
    if sys.platform != "win32":
        resource = importlib.import_module("resource")  # which Windows has not
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (most, most))
