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


class ArchiveWatch:
    """Exchanges the lanes of an archive that has changed. Used on one event loop.

    Args:
        loader: Tells what an address holds.
        exchange: Puts a lane with the new archive in the place of one; a DetectorWorkerError leaves the old one.
    """

    def __init__(self, loader: PipelineLoader, exchange: Callable[[Lane], Awaitable[None]]) -> None:
        self._loader, self._exchange = loader, exchange
        self._failed: dict[str, tuple[str, int]] = {}
        """By address: the archive that could not be taken, and how many looks ago that began."""
        self._told: dict[str, str] = {}

    async def watch(self, lanes: Mapping[str, Lane], *, every_s: float) -> None:
        """Look at the archives of lanes, which come and go, for ever."""
        while True:
            await asyncio.sleep(every_s)
            by_url: dict[str, list[Lane]] = {}
            for lane in lanes.values():
                by_url.setdefault(lane.spec.model_url, []).append(lane)
            # One that is slow to come keeps nobody waiting but its own cameras.
            await asyncio.gather(*(self._look(url, users) for url, users in by_url.items()))

    async def _look(self, url: str, users: list[Lane]) -> None:
        sha256 = ""
        try:
            sha256 = await self._loader.current_sha256(url)
            old = [lane for lane in users if lane.loaded.sha256 != sha256]
            if old and not self._is_put_off(url, sha256):
                for lane in old:
                    await self._exchange(lane)
                _log.info("%s has changed: %d camera(s) go on with the new one", users[0].pipeline.model_id, len(old))
            if not old:
                self._failed.pop(url, None)
                self._told.pop(url, None)
        except DetectorWorkerError as exc:
            self._failed.setdefault(url, (sha256, 0))
            self._tell_once(url, f"{users[0].pipeline.model_id} is not exchanged, the one in use goes on: {exc}")
        except Exception:  # noqa: BLE001 - one archive's boundary
            _log.exception("%s could not be looked at", users[0].pipeline.model_id)

    def _is_put_off(self, url: str, sha256: str) -> bool:
        """Try an archive that failed again after 1, 2, 4, 8 ... looks: it may cost a core for minutes."""
        before, looks = self._failed.pop(url, ("", 0))
        if before != sha256:
            return False
        self._failed[url] = sha256, looks + 1
        return looks & (looks - 1) != 0

    def _tell_once(self, url: str, text: str) -> None:
        if self._told.get(url) != text:
            self._told[url] = text
            _log.warning(text)
