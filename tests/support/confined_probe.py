"""A child of `run_confined` that tells what it can see and do."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from detector_worker.models.runtimes.confinement import Child, run_as_child


def _probe(child: Child) -> None:
    print("no answer", flush=True)  # noqa: T201 - what a library prints
    child.tell(variables=" ".join(sorted(os.environ)))
    child.tell(
        descriptors=" ".join(str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in range(3, 256) if _is_open(fd))
    )
    child.tell(
        room=" ".join(map(str, Path().iterdir())), capabilities=_status("CapEff"), privileges=_status("NoNewPrivs")
    )
    child.tell(network=_error_of(lambda: socket.create_connection(("127.0.0.1", child.job["port"]), timeout=2).close()))
    child.tell(large_file=_error_of(lambda: Path("large").write_bytes(bytes(2 << 20))))
    child.tell(parent=_error_of(lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes()))
    child.bound_memory()
    child.tell(memory=_error_of(lambda: bytearray(child.job["bytes"])))
    if child.job["leaves"]:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)  # left behind"])


def _is_open(fd: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(fd)
        return True
    return False


def _status(name: str) -> str:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def _error_of(action: object) -> str:
    try:
        action()  # type: ignore[operator]
    except (OSError, MemoryError) as exc:
        return type(exc).__name__
    return "none"


if __name__ == "__main__":
    run_as_child(_probe)
