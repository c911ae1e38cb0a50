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
from detector_worker.core.camera_message import CAMERA_KEYS
from detector_worker.core.exceptions import ServiceError
from detector_worker.core.located_yaml import read_yaml
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
        self._kept: Mapping[str, Mapping[str, Any]] | None = None
        """As they are written, those that are refused included; None: not read yet."""
        self._one_import = asyncio.Lock()

    def take_file(self, listed: Sequence[SubscriptionSpec]) -> None:
        """Take the cameras of the operator's file, before `run`."""
        self._listed = tuple(listed)

    async def run(self) -> None:
        """Watch the operator's cameras, and those imported before under other names, until cancelled."""
        for spec in self._listed:
            self._site.want(spec)
        async with self._one_import:  # else a list that comes meanwhile would be written over, or write over
            try:
                await self._recall()
            except ServiceError as exc:
                logger.error("All imported cameras are left out. %s", exc)  # noqa: TRY400 - it has no cause to be traced
        await self._site.run()

    async def import_list(self, content: bytes, *, replace: bool) -> ImportAnswer:
        """Add or replace the cameras of a list; with ``replace`` end those that it does not name.

        Returns when the engine has answered for each camera.

        Raises:
            ServiceError: The list cannot be kept, or what was kept before cannot be read; nothing has changed.
        """
        async with self._one_import:
            before = await self._recall()
            found = await asyncio.to_thread(read_camera_list, content, folder=self._folder, make_order=self._make_order)
            if found.problems:
                return ImportAnswer(problems=_bounded(found.problems))
            named = {camera.camera_id: camera.order for camera in found.cameras}
            others = self._site.cameras().keys() - named.keys()
            kept = {**({} if replace else before), **{camera.camera_id: camera.written for camera in found.cameras}}
            encoded = await asyncio.to_thread(write_camera_list, kept)
            if len(encoded) > MAX_LIST_BYTES or (not replace and len(kept.keys() | others) > MAX_CAMERAS):
                mend = f"All cameras together: at most {MAX_CAMERAS}, and {MAX_LIST_BYTES} bytes."
                return ImportAnswer(problems=(Problem("cameras", None, "Too many cameras", mend),))
            await self._keep(encoded)
            self._kept = kept
            outcomes = list(await asyncio.gather(*(self._site.put(spec) for spec in named.values())))
            if replace:
                outcomes += [await self._site.remove(camera_id) for camera_id in sorted(others)]
            return ImportAnswer(outcomes=tuple(outcomes))

    async def _recall(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what was kept; the first time, it is read and its cameras are watched."""
        if self._kept is None:
            found, written = await asyncio.to_thread(self._read_kept)
            for problem in found.problems:
                logger.error("An imported camera is left out. %s, %s", self._kept_file, problem)
            self._kept = written
            listed = {spec.camera_id for spec in self._listed}
            for camera in found.cameras:
                if camera.camera_id not in listed:
                    self._site.want(camera.order)
        return self._kept

    def _read_kept(self) -> tuple[CameraList[SubscriptionSpec], Mapping[str, Mapping[str, Any]]]:
        """Return the kept cameras that can be watched, and how all of them are written."""
        try:
            content = self._kept_file.read_bytes()
        except FileNotFoundError:
            return CameraList((), ()), {}
        except OSError as exc:
            raise self._unreadable(exc.strerror or type(exc).__name__) from exc
        found = read_camera_list(content, folder=self._folder, make_order=self._make_order)
        written = {camera.camera_id: camera.written for camera in found.cameras}
        if found.problems:
            everything = _as_written(content)
            if everything is None:
                raise self._unreadable(str(found.problems[0]))
            written = {**everything, **written}
        return found, written

    def _unreadable(self, why: str) -> ServiceError:
        what, mend = f"The cameras that were imported before cannot be read: {why}", "Mend this file, or move it away."
        return ServiceError(what, where=str(self._kept_file), mend=mend)

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


def _as_written(content: bytes) -> Mapping[str, Mapping[str, Any]] | None:
    """Return a list's cameras as they stand there, sound or not; None where that cannot be told."""
    if len(content) > MAX_LIST_BYTES:
        return None
    try:
        root, problems = read_yaml(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None
    match root.plain() if root is not None and not problems else None:
        case {"cameras": dict(cameras), **top} if all(isinstance(camera, dict) for camera in cameras.values()):
            for_all = {key: value for key, value in top.items() if key in CAMERA_KEYS}
            return {name: {**for_all, **camera} for name, camera in cameras.items()}
    return None


def _bounded(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    if len(problems) <= _MAX_TOLD:
        return problems
    return (*problems[:_MAX_TOLD], Problem("", None, f"And {len(problems) - _MAX_TOLD} more", "Mend these first."))
