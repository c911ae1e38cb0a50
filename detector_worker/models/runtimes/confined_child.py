"""Work on content from outside, done by a child process within limits; this is the parent's side of it.

The job, the answers and the last words are files in a folder of the parent's: no pipe can block, and a limit on the
size of files bounds them. `confinement` is the child's side.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.runtimes.confinement import OUT_OF_MEMORY

__all__ = ["Ending", "TrialLimits", "run_confined", "workshop"]

_LOOK_EVERY_S: Final = 0.02
_MAX_ANSWER_BYTES: Final = 1 << 20
_MAX_TEXT: Final = 500
_LIBRARIES_BYTES: Final = 512 << 20
"""What the libraries take at most, where the child cannot be told from outside to not count them."""


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """What a child may take: memory beside the libraries, and time, start included."""

    memory_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended: with what it answered, and why not well (``memory``, ``time``, ``signal 11``...)."""

    answers: list[dict[str, Any]]
    fault: str | None

    def error(self, where: str, limits: TrialLimits) -> ModelLoadError:
        """Say it to people; what the child refused keeps its own words."""
        refusal = self.answers[-1] if self.answers else {}
        if self.fault is None and "what" in refusal:
            return ModelLoadError(refusal["what"], where=where, mend=refusal["mend"])
        what, mend = "The model crashed the runtime", "It is not used. Export it again, by another version if you can."
        if self.fault == "memory":
            what = f"The model needs more than {limits.memory_bytes >> 20} MiB"
            mend = "Raise models.trial_memory_mb if you trust it, or export it with a smaller input size."
        elif self.fault == "time":
            what = f"The model took longer than {limits.seconds:g} s to load"
            mend = "Raise models.trial_seconds if you trust it, or the machine is overloaded."
        elif self.fault == "stopped":
            what, mend = "The model was not tried to its end", "The worker is stopping."
        elif self.fault is not None:
            what = f"{what} ({self.fault})"
        return ModelLoadError(what, where=where, mend=mend)


@contextmanager
def workshop(where: str, *, near: Path | None = None) -> Iterator[Path]:
    """Make a folder for one child, ``near`` where its work will stay, and remove it; ModelLoadError: no room for it."""
    try:
        if near is not None:
            near.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=near, ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    except OSError as exc:
        what = f"The model could not be tried or converted: {exc.strerror or type(exc).__name__}"
        mend = "See to the room in the temporary and the data folder, and to the limits on processes and open files."
        raise ModelLoadError(what, where=where, mend=mend) from exc


def run_confined(
    module: str,
    job: Mapping[str, Any],
    folder: Path,
    *,
    limits: TrialLimits,
    file_bytes: int = 1 << 20,
    bound_addresses: bool = True,
    stopped: threading.Event | None = None,
    variables: Mapping[str, str] | None = None,
) -> Ending:
    """Run a module of ours as a child, and wait for its end; afterwards nothing of it is left but files.

    It gets no descriptor, no variable and no terminal of this process. Where the system knows no limits on a process
    (Windows), time and resident memory are watched from here alone.

    Args:
        module: Which to run; it calls `confinement.run_as_child`.
        job: What to do, as JSON.
        folder: A `workshop`; the child works in ``folder / "room"``.
        limits: How much it may take.
        file_bytes: How large each file may be that it writes.
        bound_addresses: Whether memory is bounded by the system too, as mapped addresses.
        stopped: Ends the child early.
        variables: What a library wants to be told in the environment.
    """
    confinement = {
        "parent": os.getpid(),
        "memory_bytes": limits.memory_bytes if bound_addresses else None,
        "cpu_seconds": int(limits.seconds * (os.cpu_count() or 1)) + 1,
        "file_bytes": file_bytes,
    }
    (folder / "job").write_text(json.dumps(confinement | {"job": job}), "utf-8")
    (folder / "room").mkdir()
    deadline_s = time.monotonic() + limits.seconds
    process = _start(module, folder, variables or {})
    try:
        fault = _watch(process, limits.memory_bytes, deadline_s, stopped or threading.Event())
    finally:
        _end(process)
    if fault is None and process.returncode:
        fault = _crash(process.returncode, folder / "words")
    return Ending(_answers(folder / "answers"), fault)


def _start(module: str, folder: Path, variables: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder / "room"),
        "LC_ALL": "C.UTF-8",
        "MALLOC_ARENA_MAX": "2",  # one for each thread would map 64 MiB of addresses each
        "OPENBLAS_NUM_THREADS": "1",
    }
    with ExitStack() as files:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=files.enter_context((folder / "job").open("rb")),
            stdout=files.enter_context((folder / "answers").open("wb")),
            stderr=files.enter_context((folder / "words").open("wb")),
            cwd=folder / "room",
            env=environment | dict(variables),
            start_new_session=True,
        )


def _watch(
    process: "subprocess.Popen[bytes]", memory_bytes: int, deadline_s: float, stopped: threading.Event
) -> str | None:
    """Wait until the child has ended, without reaping it; returns why it must be ended, None where it did so itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        child = psutil.Process(process.pid)
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            if child.memory_info().rss > memory_bytes + _LIBRARIES_BYTES:
                return "memory"
            if time.monotonic() > deadline_s:
                return "time"
            if stopped.wait(_LOOK_EVERY_S):
                return "stopped"
    return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill the child and all of its group. While it is not reaped its number is nobody else's."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS denies it where only a zombie is left
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _crash(code: int, words: Path) -> str:
    """Say how a child ended that ended badly by itself."""
    with words.open("rb") as file:
        said = file.read(_MAX_ANSWER_BYTES).decode("utf-8", "replace")
    if any(sign in said for sign in OUT_OF_MEMORY):
        return "memory"
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    return f"signal {-code}" if code < 0 else f"exit code {code}: {_plain(last)}"


def _answers(path: Path) -> list[dict[str, Any]]:
    """Read what the child said, up to the first line that is no answer; it may have been written by a hostile model."""
    answers: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for line in file.read(_MAX_ANSWER_BYTES).splitlines():
            try:
                answer = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(answer, dict) or not all(isinstance(value, int | str) for value in answer.values()):
                break
            answers.append({key: _plain(value) for key, value in answer.items()})
    return answers


def _plain(value: int | str) -> int | str:
    """Make a text one printable line."""
    if isinstance(value, int):
        return value
    return "".join(letter if letter.isprintable() else " " for letter in value)[:_MAX_TEXT]
