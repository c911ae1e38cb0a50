"""From an archive to a pipeline that can run: fetched, unpacked, checked, its models loaded.

Nothing of an archive is used before all of it is known to be right, and what was loaded for one that is wrong is
let go again.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Final

from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.archive import ArchiveLimits, ExtractedArchive, extract_archive, remove_leftovers
from detector_worker.models.download import Downloader, local_path
from detector_worker.models.model_manager import LoadedModel, ModelConfig, ModelManager
from detector_worker.models.pipeline_config import (
    BranchConfig,
    ModelSettings,
    PipelineConfig,
    PostgresqlUpdate,
    RedisSaveImage,
)
from detector_worker.models.pipeline_parser import parse_pipeline, refuse
from detector_worker.models.templates import template_problems

__all__ = ["LoadedPipeline", "PipelineLoader"]

_FILE: Final = "pipeline.json"
_SUFFIXES: Final = frozenset({".onnx", ".xml"})


@dataclass(eq=False)
class LoadedPipeline:
    """A pipeline ready to run. It holds its models until it is closed."""

    config: PipelineConfig
    sha256: str
    """Of the archive."""
    models: Mapping[str, LoadedModel]
    """By model id: the detector's and every branch's."""
    warnings: tuple[str, ...]
    unload: Callable[[LoadedModel], None] = field(repr=False)

    def close(self) -> None:
        """Let the models go; a second time does nothing."""
        for model in self.models.values():
            self.unload(model)


class PipelineLoader:
    """Loads archives; all of its slow work is done in threads. Owns no thread and no task."""

    def __init__(
        self,
        manager: ModelManager,
        cache_dir: Path,
        *,
        limits: ArchiveLimits,
        allowed_paths: Sequence[Path],
        network_policy: NetworkPolicy,
        download_timeout_s: float,
    ) -> None:
        """Make a loader.

        Args:
            manager: Who loads and shares the models.
            cache_dir: Where archives are unpacked; made where it is absent, and nothing else is ever written to.
            limits: What an archive may cost.
            allowed_paths: Folders from which archives may be read; empty: any.
            network_policy: From where archives may be downloaded.
            download_timeout_s: For a whole download.
        """
        self._manager, self._cache_dir, self._limits = manager, cache_dir, limits
        self._allowed_paths = tuple(path.resolve() for path in allowed_paths)
        self._downloader = Downloader(
            network_policy, max_bytes=limits.archive_bytes, timeout_s=download_timeout_s, folder=cache_dir
        )
        remove_leftovers(cache_dir)

    async def load_from_url(self, url: str) -> LoadedPipeline:
        """Load an archive by its address: http(s), ``file://`` or a path.

        Raises:
            ModelLoadError: It cannot be fetched or is refused, or a model in it cannot be loaded.
            PipelineError: Its ``pipeline.json`` is wrong.
            MessageProcessingError: The address is none, or leads where the worker must not read.
        """
        path = local_path(url)
        if path is None:
            async with self._downloader.download(url) as (downloaded, name):
                return await self._load(downloaded, name)
        if self._allowed_paths and not any(path.resolve().is_relative_to(folder) for folder in self._allowed_paths):
            raise ModelLoadError(
                "Archives may not be read from there",
                where=f"archive {path.name}",
                mend="Put it into one of the folders of pipelines.allowed_paths.",
            )
        return await self._load(path, path.name)

    async def load_pipeline(self, path: Path) -> LoadedPipeline:
        """Load an archive of this machine, wherever it lies.

        Raises:
            ModelLoadError: It is no archive or is refused, or a model in it cannot be loaded.
            PipelineError: Its ``pipeline.json`` is wrong.
        """
        return await self._load(path, path.name)

    async def _load(self, path: Path, name: str) -> LoadedPipeline:
        where = f"archive {name}"
        archive, config, folder, warnings = await asyncio.to_thread(self._read, path, where)
        models = await self._load_models(config, folder)
        loaded = LoadedPipeline(config, archive.sha256, models, warnings, self._manager.unload_model)
        problems = _class_problems(config, models)
        if problems:
            loaded.close()
            raise refuse(problems, where)
        return loaded

    def _read(self, path: Path, where: str) -> tuple[ExtractedArchive, PipelineConfig, Path, tuple[str, ...]]:
        """Do everything that needs no model; blocks."""
        archive = self._extract_archive(path)
        file = _find_file(archive.folder, where)
        config, warnings = self._parse_config(file, where)
        return archive, config, file.parent, (*warnings, *self._validate_pipeline(config, file.parent, where))

    def _extract_archive(self, path: Path) -> ExtractedArchive:
        return extract_archive(path, self._cache_dir, self._limits)

    def _parse_config(self, file: Path, where: str) -> tuple[PipelineConfig, tuple[str, ...]]:
        return parse_pipeline(file.read_bytes(), where=where)

    def _validate_pipeline(self, config: PipelineConfig, folder: Path, where: str) -> tuple[str, ...]:
        """Check what no single key can tell; returns warnings.

        Raises:
            PipelineError: All faults in one message.
        """
        faults = [f"{path}: {what}" for path, what in template_problems(config)]
        named = [(path, model.model_id) for path, model in _models(config)]
        named += [("an action", action.result_name) for action in config.all_actions()]
        for name, count in Counter(name for _, name in named).items():
            if count > 1:
                faults.append(f"the id {name!r} is used {count} times; give each model and action its own")
        if config.model_type != "detection":
            faults.append(f"pipeline.modelType: it is {config.model_type!r}; a pipeline begins with 'detection'")
        for path, model in _models(config):
            fault = _file_fault(model.model_file, folder)
            if fault is not None:
                faults.append(f"{path}.modelFile: {fault}")
        faults += _branch_name_faults(config)
        if faults:
            raise refuse(faults, where)
        sections = [name for name in ("postgresql", "redis") if getattr(config, name) is not None]
        return tuple(f"pipeline.{name} is ignored: connections are the worker's own settings" for name in sections)

    async def _load_models(self, config: PipelineConfig, folder: Path) -> dict[str, LoadedModel]:
        """Load all models, or none."""
        models: dict[str, LoadedModel] = {}
        try:
            for _, settings in _models(config):
                models[settings.model_id] = await self._manager.load_model(
                    ModelConfig(folder / settings.model_file, settings)
                )
        except BaseException:
            for model in models.values():
                self._manager.unload_model(model)
            raise
        return models


def _find_file(folder: Path, where: str) -> Path:
    """Return ``pipeline.json``, at the root or in the single top folder."""
    tops = [entry for entry in folder.iterdir() if entry.name != "__MACOSX"]
    candidates = [folder / _FILE, *([tops[0] / _FILE] if len(tops) == 1 else [])]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ModelLoadError(
        f"The archive holds no {_FILE}",
        where=where,
        mend="Put it at the root of the ZIP archive, or in its only folder.",
    )


def _models(config: PipelineConfig) -> list[tuple[str, ModelSettings]]:
    """Return every model of a pipeline with its JSON path."""

    def walk(path: str, branches: tuple[BranchConfig, ...]) -> list[tuple[str, ModelSettings]]:
        found: list[tuple[str, ModelSettings]] = []
        for index, branch in enumerate(branches):
            here = f"{path}.branches[{index}]"
            found += [(here, branch), *walk(here, branch.branches)]
        return found

    return [("pipeline", config), *walk("pipeline", config.branches)]


def _file_fault(name: str, folder: Path) -> str | None:
    """Say what is wrong with a model's file; None if nothing is."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        return "the name leads out of the archive"
    if path.suffix == ".pt":
        return "a .pt file runs code when it is loaded; export it to .onnx"
    if path.suffix not in _SUFFIXES:
        return f"models are .onnx files, or .xml with .bin; not {path.suffix or 'without a suffix'}"
    for wanted in (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,):
        if not (folder / wanted).is_file():
            return f"the archive holds no file {str(wanted)!r}"
    return None


def _branch_name_faults(config: PipelineConfig) -> list[str]:
    names = sorted(branch.model_id for branch in config.all_branches())
    return [
        f"{action.result_name}.waitForBranches: there is no branch {name!r}{_hint(name, names)}"
        for action in config.all_actions()
        if isinstance(action, PostgresqlUpdate)
        for name in action.wait_for_branches or ()
        if name not in names
    ]


def _class_problems(config: PipelineConfig, models: Mapping[str, LoadedModel]) -> list[str]:
    """Name classes that no detector of the pipeline can find, in whatever case."""
    own = _classes(models[config.model_id])
    found = own.union(*(_classes(model) for model in models.values() if model.settings.model_type == "detection"))
    wanted = [("triggerClasses", name, own) for name in config.trigger_classes]
    wanted += [("expectedClasses", name, own) for name in config.expected_classes]
    wanted += [("requiredClasses", name, own) for name in config.required_classes]
    for branch in config.all_branches():
        wanted += [(f"{branch.model_id}.triggerClasses", name, found) for name in branch.trigger_classes]
        wanted += [(f"{branch.model_id}.cropClass", branch.crop_class, found)] if branch.crop_class else []
    wanted += [
        (f"{action.result_name}.region", action.region, found)
        for action in config.all_actions()
        if isinstance(action, RedisSaveImage) and action.region not in {"frame", "best"}
    ]
    return [
        f"{path}: the detector knows no class {name!r}{_hint(name.casefold(), sorted(known))}"
        for path, name, known in wanted
        if name.casefold() not in known
    ]


def _classes(model: LoadedModel) -> set[str]:
    return {name.casefold() for name in model.reading.class_names if name is not None}


def _hint(name: str, known: list[str]) -> str:
    nearest = get_close_matches(name, known, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; known are {', '.join(known[:12])}"
