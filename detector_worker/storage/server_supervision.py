"""The fate of one embedded server: started, seen ready, found dead, started again."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detector_worker.core.clock import Backoff
from detector_worker.storage.server_folders import bound_log, last_line
from detector_worker.storage.server_kinds import Server
from detector_worker.storage.server_process import Account, launch, stop_process

__all__ = ["ServiceState", "SupervisedServer"]


@dataclass(frozen=True, slots=True)
class ServiceState:
    """A change of one embedded server, told from the supervisor's thread."""

    name: str
    """``postgresql`` or ``redis``."""
    state: Literal["starting", "running", "down", "stopped"]
    pid: int | None = None
    restarts: int = 0
    reason: str | None = None
    retry_in_s: float | None = None


class SupervisedServer:
    """One server and its fate. Touched by the supervisor's thread only, but for ``pid``, which anybody may read."""

    def __init__(
        self, server: Server, log: Path, account: Account | None, tell: Callable[[ServiceState], None]
    ) -> None:
        self._server, self._log, self._account, self._tell = server, log, account, tell
        self._backoff = Backoff(base_s=0.5, cap_s=10.0)
        self._process: subprocess.Popen[bytes] | None = None
        self._retry_at_s = 0.0
        self._starts = 0
        self.ready = False
        self.reason = "it has not been started"

    @property
    def name(self) -> str:
        return self._server.name

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None else None

    def step(self, now_s: float) -> None:
        """Bring it one step on: start it when its time has come, see it ready, notice its death."""
        bound_log(self._log)
        if self._process is None:
            if now_s >= self._retry_at_s:
                self._start()
        elif (code := self._process.poll()) is not None:
            self._process, self.ready = None, False
            self._fail(f"it ended with exit code {code}: {last_line(self._log)}", now_s)
        elif self.ready:
            self._backoff.note_success(now_s)
        elif self._server.is_ready(self._process.pid):
            self.ready = True
            self._backoff.note_success(now_s)
            self._tell(ServiceState(self.name, "running", self.pid, self._starts - 1))

    def try_again(self, error: Exception, now_s: float) -> None:
        """A step failed, on a full disk, say. That may be mended while we wait."""
        self._fail(str(error), now_s)

    def stop(self) -> None:
        """Stop it, within the seconds of its ladder and half a second more."""
        process = self._process
        if process is not None:
            stop_process(process.pid, lambda: process.poll() is not None, ladder=self._server.ladder)
            self._process, self.ready = None, False
            self._tell(ServiceState(self.name, "stopped", restarts=max(0, self._starts - 1)))

    def _start(self) -> None:
        self._server.prepare()
        orphan = self._server.orphan()
        if orphan is not None:
            stop_process(orphan.pid, lambda: self._server.orphan() is None, ladder=self._server.ladder)
        self._process = launch(
            self._server.arguments(), account=self._account, log=self._log, death_signal=self._server.ladder[0][0]
        )
        self._starts += 1
        self._tell(ServiceState(self.name, "starting", self.pid, self._starts - 1))

    def _fail(self, reason: str, now_s: float) -> None:
        delay_s = self._backoff.next_delay_s()
        self._retry_at_s, self.reason = now_s + delay_s, reason
        self._tell(ServiceState(self.name, "down", None, max(0, self._starts - 1), reason, delay_s))
