"""Lists of cameras for a site without a backend: checked, started, kept for the next start."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from detector_worker.communication.requests import subscription_spec
from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.camera_list import (
    MAX_CAMERAS,
    MAX_LIST_BYTES,
    CameraList,
    Problem,
    read_camera_list,
    write_camera_list,
)
from detector_worker.core.exceptions import ServiceError
from detector_worker.engine.engine import SubscriptionSpec
from detector_worker.engine.site_cameras import CameraOutcome, SiteCameras

__all__ = ["CameraLists", "ImportAnswer", "read_cameras_file"]

logger = logging.getLogger(__name__)
_MAX_TOLD: Final = 100
"""Problems of one list: the rest is a number."""


@dataclass(frozen=True, slots=True)
class ImportAnswer:
    """What an import has done; with problems, nothing."""

    outcomes: tuple[CameraOutcome, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_cameras_file(
    path: Path,
    *,
    camera_policy: NetworkPolicy,
    archive_policy: NetworkPolicy,
    variables: Mapping[str, str],
) -> tuple[tuple[SubscriptionSpec, ...], tuple[Problem, ...]]:
    """Read the file of whoever starts the worker; ``variables`` are what ``${NAME}`` in an address stands for.

    Returns:
        What to subscribe to, and what is wrong with the file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LIST_BYTES + 1)
    except OSError as exc:
        return (), (Problem("", None, f"It cannot be read: {exc.strerror}", "Check its path and permissions."),)
    make_order = partial(subscription_spec, camera_policy=camera_policy, archive_policy=archive_policy)
    found = read_camera_list(content, folder=path.absolute().parent, make_order=make_order, variables=variables)
    return tuple(camera.order for camera in found.cameras), _bounded(found.problems)


class CameraLists:
    """Joins the operator's file, what was imported before, and what is imported now. Used on one event loop.

    Args:
        site: Who holds the cameras.
        kept_file: Where imported cameras are kept for the next start.
        camera_policy: Where cameras may be.
        archive_policy: From where archives may be downloaded.
    """

    def __init__(
        self, site: SiteCameras, *, kept_file: Path, camera_policy: NetworkPolicy, archive_policy: NetworkPolicy
    ) -> None:
        self._site, self._kept_file = site, kept_file
        self._make_order = partial(subscription_spec, camera_policy=camera_policy, archive_policy=archive_policy)
        self._listed: tuple[SubscriptionSpec, ...] = ()
        self._folder = Path.cwd()
        self._kept: dict[str, Mapping[str, Any]] = {}
        self._one_import = asyncio.Lock()

    def take_file(self, listed: Sequence[SubscriptionSpec]) -> None:
        """Take the cameras of the operator's file, before `run`."""
        self._listed = tuple(listed)

    async def run(self) -> None:
        """Watch the operator's cameras, and those imported before under other names, until cancelled."""
        kept = await asyncio.to_thread(self._read_kept)
        for problem in kept.problems:
            logger.error("An imported camera is left out. %s, %s", self._kept_file, problem)
        self._kept = {camera.camera_id: camera.written for camera in kept.cameras}
        imported = {camera.camera_id: camera.order for camera in kept.cameras}
        for spec in (imported | {spec.camera_id: spec for spec in self._listed}).values():
            self._site.want(spec)
        await self._site.run()

    async def import_list(self, content: bytes, *, replace: bool) -> ImportAnswer:
        """Add or replace the cameras of a list; with ``replace`` end those that it does not name.

        Returns when the engine has answered for each camera.

        Raises:
            ServiceError: The list cannot be kept; nothing has changed.
        """
        async with self._one_import:
            found = await asyncio.to_thread(read_camera_list, content, folder=self._folder, make_order=self._make_order)
            if found.problems:
                return ImportAnswer(problems=_bounded(found.problems))
            named = {camera.camera_id: camera.order for camera in found.cameras}
            others = self._site.cameras().keys() - named.keys()
            kept = {} if replace else self._kept
            kept = {**kept, **{camera.camera_id: camera.written for camera in found.cameras}}
            encoded = await asyncio.to_thread(write_camera_list, kept)
            if len(encoded) > MAX_LIST_BYTES or (not replace and len(others) + len(named) > MAX_CAMERAS):
                mend = f"All cameras together: at most {MAX_CAMERAS}, and {MAX_LIST_BYTES} bytes."
                return ImportAnswer(problems=(Problem("cameras", None, "Too many cameras", mend),))
            await self._keep(encoded)
            self._kept = kept
            outcomes = list(await asyncio.gather(*(self._site.put(spec) for spec in named.values())))
            if replace:
                outcomes += [await self._site.remove(camera_id) for camera_id in sorted(others)]
            return ImportAnswer(outcomes=tuple(outcomes))

    def _read_kept(self) -> CameraList[SubscriptionSpec]:
        try:
            content = self._kept_file.read_bytes()
        except FileNotFoundError:
            return CameraList((), ())
        except OSError as exc:
            return CameraList((), (Problem("", None, f"It cannot be read: {exc.strerror}", "Check its permissions."),))
        return read_camera_list(content, folder=self._folder, make_order=self._make_order)

    async def _keep(self, encoded: bytes) -> None:
        try:
            await asyncio.to_thread(_write, self._kept_file, encoded)
        except OSError as exc:
            what = f"The list cannot be kept: {exc.strerror}"
            raise ServiceError(what, where=str(self._kept_file), mend="Make room, or check its permissions.") from exc


def _write(path: Path, content: bytes) -> None:
    """Replace a file as a whole; nobody else may read it, for it holds passwords."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _bounded(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    if len(problems) <= _MAX_TOLD:
        return problems
    return (*problems[:_MAX_TOLD], Problem("", None, f"And {len(problems) - _MAX_TOLD} more", "Mend these first."))
