"""From an archive to a pipeline that can run: fetched, unpacked, checked, its models loaded; all of it, or nothing."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from detector_worker.core.addresses import Address, NetworkPolicy
from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.archives.download import downloaded
from detector_worker.models.archives.unpacking import ArchiveLimits, extract_archive, remove_leftovers
from detector_worker.models.model_manager import LoadedModel, ModelConfig, ModelManager
from detector_worker.models.pipeline_checks import class_faults, pipeline_faults, pipeline_warnings
from detector_worker.models.pipeline_config import PipelineConfig
from detector_worker.models.pipeline_parser import parse_pipeline, refuse

__all__ = ["LoadedPipeline", "PipelineLoader"]

_FILE: Final = "pipeline.json"
_SCHEMES: Final = frozenset({"http", "https", "file"})


@dataclass(eq=False)
class LoadedPipeline:
    """A pipeline ready to run. It holds its models until it is closed."""

    config: PipelineConfig
    sha256: str
    """Of the archive."""
    models: Mapping[str, LoadedModel]
    """By model id: the detector's and every branch's."""
    warnings: tuple[str, ...]
    holds: ExitStack

    def close(self) -> None:
        """Let the models go; a second time does nothing."""
        self.holds.close()


class PipelineLoader:
    """Loads archives into a cache folder; all of its slow work is done in threads. Owns no thread and no task.

    ``allowed_paths`` are the folders from which `load_from_url` may read archives; None: any, empty: none.
    """

    def __init__(
        self,
        manager: ModelManager,
        cache_dir: Path,
        *,
        limits: ArchiveLimits,
        allowed_paths: Sequence[Path] | None,
        network_policy: NetworkPolicy,
        download_timeout_s: float,
    ) -> None:
        self._manager, self._cache_dir, self._limits = manager, cache_dir, limits
        self._allowed_paths, self._network_policy = allowed_paths, network_policy
        self._download_timeout_s = download_timeout_s
        cache_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(cache_dir)

    async def load_from_url(self, url: str) -> LoadedPipeline:
        """Load an archive by its address: http(s), ``file://`` or a path.

        Raises:
            ModelLoadError: It cannot be fetched or is refused, or a model in it cannot be loaded.
            PipelineError: Its ``pipeline.json`` is wrong.
            MessageProcessingError: The address is none, or leads where the worker must not read.
        """
        address = Address.parse(url, _SCHEMES) if "://" in url else None
        path = Path(unquote(address.path) if address else url)
        where = f"archive {path.name[:80]!r}"
        if address is not None and address.scheme != "file":
            policy, max_bytes, timeout_s = self._network_policy, self._limits.archive_bytes, self._download_timeout_s
            async with downloaded(address, self._cache_dir, policy, max_bytes=max_bytes, timeout_s=timeout_s) as file:
                return await self._load(file, where)
        if not str(path).isprintable() or not self._is_allowed(path):
            mend = "Put it into one of the folders of pipelines.allowed_paths."
            raise ModelLoadError("Archives may not be read from there", where=where, mend=mend)
        return await self._load(path, where)

    async def load_pipeline(self, path: Path) -> LoadedPipeline:
        """Load an archive of this machine, wherever it lies; raises as `load_from_url`."""
        return await self._load(path, f"archive {path.name!r}")

    def _is_allowed(self, path: Path) -> bool:
        folders = self._allowed_paths
        return folders is None or any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)

    async def _load(self, path: Path, where: str) -> LoadedPipeline:
        folder, sha256 = await asyncio.to_thread(self._extract_archive, path, where)
        config, warnings = await asyncio.to_thread(self._parse_config, folder, where)
        await asyncio.to_thread(self._validate_pipeline, config, folder, where)
        with ExitStack() as holds:
            models = await self._load_models(config, folder, holds)
            refuse(class_faults(config, models), where)
            return LoadedPipeline(config, sha256, models, (*warnings, *pipeline_warnings(config)), holds.pop_all())

    def _extract_archive(self, path: Path, where: str) -> tuple[Path, str]:
        """Return the folder of ``pipeline.json``, the root or the only folder, and the archive's hash."""
        root = extract_archive(path, self._cache_dir, self._limits, where=where)
        inner = [entry for entry in root.iterdir() if entry.name != "__MACOSX"]
        for folder in (root, *inner) if len(inner) == 1 else (root,):
            if (folder / _FILE).is_file():
                return folder, root.name
        mend = "Put it at the root of the ZIP archive, or in its only folder."
        raise ModelLoadError(f"The archive holds no {_FILE}", where=where, mend=mend)

    def _parse_config(self, folder: Path, where: str) -> tuple[PipelineConfig, tuple[str, ...]]:
        return parse_pipeline((folder / _FILE).read_bytes(), where=where)

    def _validate_pipeline(self, config: PipelineConfig, folder: Path, where: str) -> None:
        refuse(pipeline_faults(config, folder), where)

    async def _load_models(self, config: PipelineConfig, folder: Path, holds: ExitStack) -> dict[str, LoadedModel]:
        models: dict[str, LoadedModel] = {}
        for settings in (config, *config.all_branches().values()):
            model = await self._manager.load_model(ModelConfig(folder / settings.model_file, settings))
            holds.callback(self._manager.unload_model, model)
            models[settings.model_id] = model
        return models
