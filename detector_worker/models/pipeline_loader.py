"""From an archive to a pipeline that can run: fetched, checked, its models tried and loaded; all of it, or nothing."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from detector_worker.core.exceptions import ModelError, ModelLoadError
from detector_worker.models.archives.archive_source import ArchiveSource, FetchedArchive
from detector_worker.models.model_manager import LoadedModel, ModelConfig, ModelManager
from detector_worker.models.pipeline_config import PipelineConfig
from detector_worker.models.pipeline_json.checks import checked_pipeline, class_faults
from detector_worker.models.pipeline_json.document import read_content
from detector_worker.models.pipeline_json.doubts import class_doubts, pipeline_warnings
from detector_worker.models.pipeline_json.parser import ExaminedPipeline, examine_pipeline, refuse

__all__ = ["LoadedPipeline", "PipelineLoader"]

_FILE: Final = "pipeline.json"
_SAMPLES: Final = "samples"
_MAX_FAULTS: Final = 5
_PICTURES: Final = frozenset({".jpg", ".jpeg", ".png"})


@dataclass(eq=False)
class LoadedPipeline:
    """A pipeline ready to run. It holds its models and its files until it is closed."""

    config: PipelineConfig
    sha256: str
    """Of the archive."""
    samples: tuple[Path, ...]
    """Pictures of what its cameras see, which the archive brings; in the order of their names."""
    models: dict[str, LoadedModel]
    """By model id: the detector's and every branch's."""
    warnings: tuple[str, ...]
    unload: Callable[[LoadedModel], None]
    files: ExitStack = field(default_factory=ExitStack)
    is_closed: bool = field(default=False, init=False)

    def exchange(self, model: LoadedModel) -> None:
        """Use another form of one of its models, whose hold is taken over; the old one is given back."""
        self.unload(self.models[model.model_id])
        if self.is_closed:
            self.unload(model)
        self.models[model.model_id] = model

    def close(self) -> None:
        """Let models and files go; a second time does nothing."""
        self.is_closed = True
        for model in self.models.values():
            self.unload(model)
        self.files.close()


class PipelineLoader:
    """Makes pipelines of archives; all of its slow work is done in threads. Owns no thread and no task.

    Args:
        manager: Loads the models.
        source: Fetches and unpacks the archives.
        convert: Makes an ONNX file of a ``.pt``, and blocks; None: an archive with a ``.pt`` is refused.
    """

    def __init__(
        self, manager: ModelManager, source: ArchiveSource, *, convert: Callable[[Path], Path] | None = None
    ) -> None:
        self._manager, self._source, self._convert = manager, source, convert
        self._converting = asyncio.Lock()

    async def load_from_url(self, url: str) -> LoadedPipeline:
        """Load an archive by its address: http(s), ``file://`` or a path.

        Raises:
            ModelLoadError: It cannot be fetched or is refused, or a model in it cannot be loaded.
            PipelineError: Its ``pipeline.json`` is wrong.
            MessageProcessingError: The address is none, or leads where the worker must not read.
        """
        return await self._load(await self._source.fetch(url))

    async def load_pipeline(self, path: Path) -> LoadedPipeline:
        """Load an archive of this machine, wherever it lies; raises as `load_from_url`."""
        return await self._load(await self._source.fetch_path(path))

    async def current_sha256(self, url: str) -> str:
        """Return the hash of what an address holds now; raises as `load_from_url`, and loads nothing."""
        with await self._source.fetch(url) as fetched:
            return fetched.sha256

    async def _load(self, fetched: FetchedArchive) -> LoadedPipeline:
        with ExitStack() as undo:
            undo.enter_context(fetched)
            folder = await asyncio.to_thread(self._extract_archive, fetched)
            examined = await asyncio.to_thread(self._parse_config, folder)
            config = await asyncio.to_thread(self._validate_pipeline, examined, folder, fetched.where)
            models = await self._load_models(config, folder, undo, fetched.where)
            refuse(class_faults(config, models), fetched.where)
            return LoadedPipeline(
                config,
                fetched.sha256,
                await asyncio.to_thread(_sample_pictures, folder),
                models,
                (*fetched.warnings, *examined.warnings, *pipeline_warnings(config), *class_doubts(config, models)),
                self._manager.unload_model,
                undo.pop_all(),
            )

    def _extract_archive(self, fetched: FetchedArchive) -> Path:
        """Return the folder of ``pipeline.json`` in what was unpacked: the root, or the only folder."""
        inner = [entry for entry in fetched.folder.iterdir() if entry.name != "__MACOSX"]
        for folder in (fetched.folder, *inner) if len(inner) == 1 else (fetched.folder,):
            if (folder / _FILE).is_file():
                return folder
        mend = "Put it at the root of the ZIP archive, or in its only folder."
        raise ModelLoadError(f"The archive holds no {_FILE}", where=fetched.where, mend=mend)

    def _parse_config(self, folder: Path) -> ExaminedPipeline:
        return examine_pipeline(read_content(folder / _FILE))

    def _validate_pipeline(self, examined: ExaminedPipeline, folder: Path, where: str) -> PipelineConfig:
        return checked_pipeline(examined, folder, where=where, allow_pickle=self._convert is not None)

    async def _load_models(
        self, config: PipelineConfig, folder: Path, undo: ExitStack, where: str
    ) -> dict[str, LoadedModel]:
        every = {"pipeline": config, **config.all_branches()}
        wanted = [ModelConfig(await self._readable(folder / one.model_file), one) for one in every.values()]
        with suppress(ModelLoadError):  # each is asked again, so that all that are refused are named
            await self._manager.admit(wanted)
        models: dict[str, LoadedModel] = {}
        faults: list[ModelError] = []
        for path, one in zip(every, wanted, strict=True):
            try:
                model = await self._manager.load_model(one)
            except ModelError as exc:
                faults.append(type(exc)(exc.what, where=f"{exc.where}, {path}", mend=exc.mend))
                if len(faults) >= _MAX_FAULTS:  # each may have cost a trial
                    break
                continue
            undo.callback(self._manager.unload_model, model)
            models[model.model_id] = model
        if len(faults) > 1:
            what = "\nand ".join(f"{fault.what} [{fault.where}]" for fault in faults)
            raise ModelLoadError(what, where=where, mend=faults[0].mend)
        if faults:
            raise faults[0]
        return models

    async def _readable(self, path: Path) -> Path:
        """Return a file that a runtime reads: the model's own, or the one that a ``.pt`` was converted to."""
        if path.suffix != ".pt" or self._convert is None:
            return path
        async with self._converting:  # each is converted once, and none beside another
            return await asyncio.to_thread(self._convert, path)


def _sample_pictures(folder: Path) -> tuple[Path, ...]:
    found: Iterable[Path] = (folder / _SAMPLES).glob("*") if (folder / _SAMPLES).is_dir() else ()
    return tuple(sorted(path for path in found if path.suffix.lower() in _PICTURES and path.is_file()))
