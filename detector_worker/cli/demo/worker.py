"""The worker as the demo's child: started, seen ready, found dead, started again."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final, NoReturn

from detector_worker.cli.demo.board import WorkerView
from detector_worker.core.exceptions import ServiceError
from detector_worker.storage.embedded.server_process import Account, last_words

__all__ = ["SupervisedWorker"]

_READY_S: Final = 40.0
_STOP_S: Final = 8.0
_TICK_S: Final = 0.05
_DEATHS: Final = 3
_WITHIN_S: Final = 30.0
_READY_LINE: Final = re.compile(rb"is ready at (ws://\S+) ")


class SupervisedWorker:
    """``detector-worker serve`` on any free port, with its data in ``folder/data`` and its output in a file there.

    `run` owns the process. It has nothing of our environment, so that no setting of the user's leads it to another
    database, and it ends when we are killed. ``notify`` is told of each change.
    """

    def __init__(self, folder: Path, *, notify: Callable[[WorkerView], None]) -> None:
        self.data_dir, self.log = folder / "data", folder / "worker.log"
        self._notify = notify
        self._up = asyncio.Event()
        self._url = ""

    async def url(self) -> str:
        """Wait until it is ready, and return the address of its WebSocket."""
        await self._up.wait()
        return self._url

    @property
    def http_url(self) -> str | None:
        """Where its HTTP side is, ending in a slash; None while it is down."""
        return self._url.replace("ws://", "http://", 1) if self._up.is_set() else None

    async def run(self) -> NoReturn:
        """Keep it running; when cancelled, stop it.

        Raises:
            ServiceError: It does not become ready, or dies again and again.
        """
        self.data_dir.mkdir(exist_ok=True)
        self.data_dir.chmod(0o711)  # as root, the embedded servers run as another account and must find their way
        deaths: deque[float] = deque(maxlen=_DEATHS)
        for restarts in count():
            code = await self._live(restarts)
            deaths.append(asyncio.get_running_loop().time())
            if len(deaths) == _DEATHS and deaths[-1] - deaths[0] <= _WITHIN_S:
                raise self._error(f"The worker died {_DEATHS} times within {_WITHIN_S:.0f} s, last with code {code}")
        raise AssertionError

    async def _live(self, restarts: int) -> int:
        """Be with it from its start to its death; return its exit code."""
        said = self.log.stat().st_size if self.log.exists() else 0
        process = self._launch()
        try:
            self._notify(WorkerView("restarting" if restarts else "starting", process.pid, restarts))
            if await self._becomes_ready(process, said):
                self._up.set()
                self._notify(WorkerView("running", process.pid, restarts))
            code = await _exit_code(process)
            self._up.clear()
            self._notify(WorkerView("restarting", process.pid, restarts, f"died with code {code}"))
            return code
        finally:
            self._up.clear()
            await _end(process)

    def _launch(self) -> "subprocess.Popen[bytes]":
        ourselves = Account("you", os.geteuid(), os.getegid())
        command = (sys.executable, "-P", "-m", "detector_worker", "serve", "--port", "0", "--data-dir", self.data_dir)
        return ourselves.launch(command, log=self.log, death_signal=signal.SIGTERM)

    async def _becomes_ready(self, process: "subprocess.Popen[bytes]", said: int) -> bool:
        """Wait for the line that says so, past the first ``said`` bytes of its output; False: it died before."""
        try:
            async with asyncio.timeout(_READY_S):
                while process.poll() is None:
                    if (line := _READY_LINE.search(self.log.read_bytes(), said)) is not None:
                        self._url = line[1].decode()
                        return True
                    await asyncio.sleep(_TICK_S)
        except TimeoutError:
            raise self._error(f"The worker was not ready within {_READY_S:.0f} s") from None
        return False

    def _error(self, what: str) -> ServiceError:
        mend = "Keep that file with --data-dir, and see what detector_worker.log beside it tells."
        return ServiceError(f"{what}; its last words: {last_words(self.log)}", where=str(self.log), mend=mend)


async def _exit_code(process: "subprocess.Popen[bytes]") -> int:
    """Wait for its end; without a thread, which would outlive us where the end does not come."""
    while True:
        if (code := process.poll()) is not None:
            return code
        await asyncio.sleep(_TICK_S)


async def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask it to end, and kill it where it does not, or where nobody waits any longer."""
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await _exit_code(process)
    except TimeoutError:
        pass  # it is killed
    finally:
        process.kill()
        process.wait()
