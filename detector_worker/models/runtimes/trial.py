"""The first sight of a model: parsed, compiled and run once in a child process before this process touches it."""

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.kept_files import write_atomically
from detector_worker.models.runtimes.confined_child import TrialLimits, run_confined, workshop
from detector_worker.models.runtimes.runtime import Hw

__all__ = ["Candidate", "ModelTrial", "TrialLimits"]

_CHILD: Final = "detector_worker.models.runtimes.trial_child"
_FAILURES_LAST_S: Final = 60.0
"""A fault may be a full machine's, so it is not believed for ever; nor is it sought anew by every subscription."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model file, the hash of its content (with its ``.bin``), and the input size where it leaves that open."""

    path: Path
    sha256: str
    input_hw: Hw


class ModelTrial:
    """Tries each content once for a runtime and a machine; what was found is kept in a folder. Thread-safe.

    Who calls it keeps the same content from being tried twice at one time, and bounds how many children there are.

    Args:
        kept_dir: Where results are kept, one small file each; made when needed. Processes may share it.
        runtime_identity: `InferenceRuntime.identity` of the runtime that will run what is admitted.
        runtime_name: Which implementation the child makes.
        device: As its runtime takes it, such as ``cpu``.
        threads: As the runtime of this process has them, since memory depends on it.
        requests: As ``threads``.
        limits: For one call of `admit`: the time for all its models, the memory for each.
    """

    def __init__(
        self,
        kept_dir: Path,
        *,
        runtime_identity: str,
        runtime_name: Literal["openvino", "onnxruntime"],
        device: str,
        threads: int,
        requests: int,
        limits: TrialLimits,
    ) -> None:
        self._kept_dir, self._identity, self._limits = kept_dir, f"{runtime_identity}, {threads}/{requests}", limits
        self._runtime = {"runtime": runtime_name, "device": device, "threads": threads, "requests": requests}
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._failures: dict[str, tuple[float, ModelLoadError]] = {}

    def admit(self, candidates: Sequence[Candidate]) -> dict[str, int]:
        """Return the memory that each model takes, in bytes, by ``sha256``; blocks while the unknown are tried.

        Raises:
            ModelLoadError: The runtime refused a model, crashed on it, or took more memory or time than it may.
        """
        known = self._known(candidates)
        if len(known) < len({one.sha256 for one in candidates}):
            unknown = {one.sha256: one for one in candidates if one.sha256 not in known}
            known |= self._try(list(unknown.values()))
        return known

    def close(self) -> None:
        """End a trial under way, whose caller gets a ModelLoadError, and begin no other."""
        self._stopped.set()

    def _try(self, pending: list[Candidate]) -> dict[str, int]:
        """Try models in one child; whichever failed after others were tried in it has a second try in a fresh one."""
        found: dict[str, int] = {}
        deadline_s = time.monotonic() + self._limits.seconds
        while pending:
            self._raise_recent_failure(pending)
            measured, fault = self._run(pending, max(0.0, deadline_s - time.monotonic()))
            for one, memory_bytes in zip(pending, measured, strict=False):
                found[one.sha256] = memory_bytes
                self._keep(one, memory_bytes)
            pending = pending[len(measured) :]
            if pending and (not measured or time.monotonic() > deadline_s):
                with self._lock:
                    self._failures[pending[0].sha256] = time.monotonic(), fault
                raise fault
        return found

    def _raise_recent_failure(self, pending: list[Candidate]) -> None:
        oldest_s = time.monotonic() - _FAILURES_LAST_S
        with self._lock:
            for key in [key for key, failure in self._failures.items() if failure[0] <= oldest_s]:
                del self._failures[key]
            known = [self._failures[one.sha256][1] for one in pending if one.sha256 in self._failures]
        if known:
            raise copy(known[0])  # an error raised twice would keep both tracebacks

    def _run(self, pending: list[Candidate], seconds: float) -> tuple[list[int], ModelLoadError]:
        """Return what the first models take, and the fault of the next one."""
        job = {"runtime": self._runtime, "models": [(str(one.path.absolute()), *one.input_hw) for one in pending]}
        limits = TrialLimits(self._limits.memory_bytes, seconds)
        is_bounded = self._runtime["device"] == "cpu"  # accelerators map far more addresses than they use
        with workshop(f"model {pending[0].path.name}") as folder:
            ending = run_confined(_CHILD, job, folder, limits=limits, bound_addresses=is_bounded, stopped=self._stopped)
        measured = [answer["memory_bytes"] for answer in ending.answers if "memory_bytes" in answer]
        culprit = pending[min(len(measured), len(pending) - 1)].path.name
        return measured, ending.error(f"model {culprit}", self._limits)

    def _known(self, candidates: Sequence[Candidate]) -> dict[str, int]:
        found = {one.sha256: self._kept(one) for one in candidates}
        return {sha256: memory_bytes for sha256, memory_bytes in found.items() if memory_bytes is not None}

    def _kept(self, one: Candidate) -> int | None:
        """Return what an earlier trial found, perhaps another process's; garbage counts as nothing."""
        try:
            found = json.loads(self._file(one).read_bytes())
            memory_bytes = found["memory_bytes"] if found["of"] == self._title(one) else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return memory_bytes if type(memory_bytes) is int and memory_bytes > 0 else None

    def _keep(self, one: Candidate, memory_bytes: int) -> None:
        content = json.dumps({"of": self._title(one), "memory_bytes": memory_bytes}).encode()
        with contextlib.suppress(OSError):  # a full disk costs another trial after the next start
            write_atomically(self._file(one), content)

    def _title(self, one: Candidate) -> str:
        return f"{one.sha256} at {one.input_hw[0]}x{one.input_hw[1]} by {self._identity}"

    def _file(self, one: Candidate) -> Path:
        return self._kept_dir / f"{hashlib.sha256(self._title(one).encode()).hexdigest()[:32]}.json"
