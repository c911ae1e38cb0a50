"""Archives in use, looked at now and then whether they have changed at their address."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from detector_worker.core.exceptions import DetectorWorkerError
from detector_worker.engine.lane import Lane
from detector_worker.models.pipeline_loader import PipelineLoader

__all__ = ["ArchiveWatch"]

_log: Final = logging.getLogger(__name__)
_LONGEST_PAUSE: Final = 16


class ArchiveWatch:
    """Exchanges the lanes of an archive that has changed. Used on one event loop.

    Args:
        loader: Tells what an address holds.
        exchange: Puts a lane with the new archive in the place of one; a DetectorWorkerError leaves the old one.
    """

    def __init__(self, loader: PipelineLoader, exchange: Callable[[Lane], Awaitable[None]]) -> None:
        self._loader, self._exchange = loader, exchange
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._unfetched: dict[str, int] = {}
        """By address: how many looks ago it began that nothing could be fetched there."""
        self._refused: dict[str, tuple[str, int]] = {}
        """By address: the archive that could not be taken, and how many looks ago that began."""
        self._told: dict[str, str] = {}

    async def watch(self, lanes: Mapping[str, Lane], *, every_s: float) -> None:
        """Look at the archives of lanes, which come and go, for ever."""
        try:
            while True:
                await asyncio.sleep(every_s)
                by_url: dict[str, list[Lane]] = {}
                for lane in lanes.values():
                    if lane.spec.url:  # a file's lane ends with it
                        by_url.setdefault(lane.spec.model_url, []).append(lane)
                for url, users in by_url.items():
                    looks = self._unfetched.get(url, -1) + 1
                    if looks:
                        self._unfetched[url] = looks
                    if url not in self._under_way and _is_time_again(looks):
                        self._begin(url, users)
        finally:
            for task in self._under_way.values():
                task.cancel()

    def _begin(self, url: str, users: list[Lane]) -> None:
        """Look at one address; one that is slow to answer keeps nobody waiting but its own cameras."""
        task = asyncio.create_task(self._look(url, users), name="an archive's address")
        self._under_way[url] = task
        task.add_done_callback(lambda _: self._under_way.pop(url, None))

    async def _look(self, url: str, users: list[Lane]) -> None:
        model_id = users[0].pipeline.model_id
        try:
            sha256 = await self._loader.current_sha256(url)
            self._unfetched.pop(url, None)
            old = [lane for lane in users if lane.loaded.sha256 != sha256]
            faults = await self._exchange_all(url, sha256, old)
        except Exception as exc:  # noqa: BLE001 - one archive's boundary
            self._unfetched.setdefault(url, 0)
            if not isinstance(exc, DetectorWorkerError):
                _log.exception("%s could not be looked at", model_id)
            old, faults = users, [str(exc)]
        if faults:
            self._tell_once(url, f"{model_id} is not exchanged, the one in use goes on: {faults[0]}")
        elif not old:
            self._told.pop(url, None)

    async def _exchange_all(self, url: str, sha256: str, old: list[Lane]) -> list[str]:
        """Exchange the lanes of another archive than this; each may fail alone. Returns why some did."""
        refused, looks = self._refused.pop(url, ("", 0))
        looks = looks + 1 if refused == sha256 else 0
        if not old:
            return []
        if not _is_time_again(looks):
            self._refused[url] = sha256, looks
            return []
        faults = []
        for lane in old:
            try:
                await self._exchange(lane)
            except DetectorWorkerError as exc:
                faults.append(str(exc))
        if faults:
            self._refused[url] = sha256, looks
        if len(faults) < len(old):
            _log.info("%s: %d camera(s) go on with another archive", old[0].pipeline.model_id, len(old) - len(faults))
        return faults

    def _tell_once(self, url: str, text: str) -> None:
        if self._told.get(url) != text:
            self._told[url] = text
            _log.warning(text)


def _is_time_again(looks: int) -> bool:
    """Look 1, 2, 4, 8 and then every 16 looks after a failure: it may cost a download, or a core for minutes."""
    return looks % _LONGEST_PAUSE == 0 or looks & (looks - 1) == 0
