"""In which precision the detectors of a group are computed: f32, or a lower one that was seen to find the same."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from detector_worker.core.entities import Detections
from detector_worker.core.exceptions import DetectorWorkerError, ModelLoadError
from detector_worker.core.frame import Frame, Region
from detector_worker.detection.precision_check import check_precision
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.engine.group_models import GroupModels
from detector_worker.models.model_manager import LoadedModel
from detector_worker.models.pipeline_loader import LoadedPipeline
from detector_worker.models.precision_records import PrecisionRecord
from detector_worker.models.runtimes.runtime import Precision
from detector_worker.streams.picture_decoding import DamagedPictureError, decode_picture

__all__ = ["PrecisionChoice", "PrecisionWish"]

PrecisionWish = Precision | Literal["auto"]
_User = tuple[LoadedPipeline, YOLODetector]

_log: Final = logging.getLogger(__name__)
_MAX_SAMPLES: Final = 64
_LEAST_SAMPLES: Final = 12
_MAX_SAMPLE_BYTES: Final = 32 << 20
_PICTURES: Final = 24
_MAX_PICTURES: Final = 96
_BOXES: Final = 60
_BETWEEN_PICTURES_S: Final = 2.0
_LOOK_AGAIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Evidence:
    pictures: Sequence[Frame]
    source: str


@dataclass(eq=False)
class _Collection:
    """Pictures of one network's cameras, until they are enough to judge a lower precision by."""

    precision: Precision
    users: list[_User] = field(default_factory=list)
    pictures: list[Frame] = field(default_factory=list)
    boxes: int = 0
    newest_s: float = float("-inf")

    @property
    def is_full(self) -> bool:
        return len(self.pictures) >= (_PICTURES if self.boxes >= _BOXES else _MAX_PICTURES)


class PrecisionChoice:
    """Decides for every detector of a group. Used on one event loop, but for `observe`."""

    def __init__(self, models: GroupModels) -> None:
        self._models, self._manager, self._records = models, models.manager, models.precisions
        self._by_use: dict[str, _Collection] = {}
        self._by_detector: dict[YOLODetector, _Collection] = {}
        self._looked_s = 0.0

    async def settle(
        self, loaded: LoadedPipeline, detector: YOLODetector, wish: PrecisionWish, *, is_live: bool
    ) -> None:
        """Give a new detector its precision, by what was asked for, what is known, or the archive's samples.

        Where ``auto`` finds nothing to judge by, a live one stays in f32 until its cameras have shown enough.

        Raises:
            ModelError: The precision that was asked for cannot be had, or the runtime failed.
        """
        lower = self._models.lower_precisions
        if wish == "auto" and lower:
            await self._settle_by_itself(loaded, detector, lower[0], is_live=is_live)
        elif wish not in {"auto", "f32", *lower}:
            mend = "Ask for auto or f32; `detector-worker doctor` shows what there is."
            raise _refusal(detector, f"This machine does not compute in {wish}", mend)
        elif wish == "int8":
            pictures = await asyncio.to_thread(_read_samples, loaded.samples)
            if len(pictures) < _LEAST_SAMPLES:
                mend = f"Put at least {_LEAST_SAMPLES} pictures of what its cameras see into samples/, or ask for auto."
                raise _refusal(detector, f"Of {len(pictures)} samples no int8 network can be made", mend)
            await self._take([(loaded, detector)], wish, await self._make_file(detector, wish, pictures))
        elif wish == "bf16":
            await self._take([(loaded, detector)], wish, None)

    def observe(self, detector: YOLODetector, frame: Frame, found: Detections, region: Region | None) -> None:
        """Keep a picture in which something was found, where one is wanted; in any thread, at no cost elsewhere."""
        collection = self._by_detector.get(detector)
        if collection is None or collection.is_full or frame.time_s - collection.newest_s < _BETWEEN_PICTURES_S:
            return
        if boxes := int((found.confidence >= detector.model.settings.min_confidence).sum()):
            collection.newest_s = frame.time_s
            collection.pictures.append(detector.reduced(frame, region))
            collection.boxes += boxes

    def forget(self, detector: YOLODetector) -> None:
        """A detector is used no longer."""
        collection = self._by_detector.pop(detector, None)
        if collection is not None:
            collection.users = [user for user in collection.users if user[1] is not detector]

    async def tend(self, now_s: float) -> None:
        """Judge what is full, and now and then look what other groups have found out; monotonic seconds."""
        is_time = now_s - self._looked_s >= _LOOK_AGAIN_S
        self._looked_s = now_s if is_time else self._looked_s
        for use, collection in tuple(self._by_use.items()):
            if not collection.users:
                del self._by_use[use]
            elif collection.is_full or is_time:
                try:
                    await self._judge(use, collection)
                except DetectorWorkerError as exc:
                    self._end_collection(use)
                    _log.error("%s could not be tried and stays in f32: %s", collection.precision, exc)

    async def _settle_by_itself(
        self, loaded: LoadedPipeline, detector: YOLODetector, precision: Precision, *, is_live: bool
    ) -> None:
        use = self._records.use_of(detector.model, self._manager.runtime.identity, precision)
        record = await asyncio.to_thread(self._records.get, use)
        if record is None and loaded.samples:
            pictures = await asyncio.to_thread(_read_samples, loaded.samples)
            record = await self._check(use, precision, (loaded, detector), _Evidence(pictures, "the archive's samples"))
        if record is not None:
            if record.is_taken:
                await self._take([(loaded, detector)], precision, record.made_file)
        elif is_live:
            collection = self._by_use.setdefault(use, _Collection(precision))
            collection.users.append((loaded, detector))
            self._by_detector[detector] = collection

    async def _judge(self, use: str, collection: _Collection) -> None:
        """Take up what is known by now, or find it out if there are pictures enough."""
        record = await asyncio.to_thread(self._records.get, use)
        if record is None and collection.is_full:
            evidence = _Evidence(collection.pictures, "what cameras showed")
            record = await self._check(use, collection.precision, collection.users[0], evidence)
            collection.pictures, collection.boxes = [], 0  # of another traffic, if these were not enough
        if record is not None:
            users = self._end_collection(use)
            if record.is_taken:
                await self._take(users, collection.precision, record.made_file)

    def _end_collection(self, use: str) -> Sequence[_User]:
        users = tuple(self._by_use.pop(use).users)
        for _, detector in users:
            self.forget(detector)
        return users

    async def _check(self, use: str, precision: Precision, user: _User, evidence: _Evidence) -> PrecisionRecord | None:
        """Compare, and keep the outcome; None where the pictures say too little."""
        loaded, detector = user
        model, wanted = detector.model, loaded.config.wanted_classes()
        made_file = await self._make_file(detector, precision, evidence.pictures)
        lower = await self._load(model, precision, made_file)
        try:
            pair = YOLODetector(model, wanted_classes=wanted), YOLODetector(lower, wanted_classes=wanted)
            agreement = await asyncio.to_thread(check_precision, *pair, evidence.pictures)
        finally:
            self._manager.unload_model(lower)
        if not agreement.is_enough:
            told = (model.model_id, evidence.source, agreement.boxes, precision)
            _log.warning("%s: %s held only %d boxes, too few to try %s", *told)
            return None
        record = PrecisionRecord(
            model_id=model.model_id,
            model_file=model.config.path.name,
            runtime=self._manager.runtime.identity,
            precision=precision,
            is_taken=not agreement.faults,
            reason=f"{agreement.summary}, {evidence.source}",
            checked_at=datetime.now(UTC).isoformat(timespec="seconds"),
            made_file=made_file,
        )
        verb = "is computed" if record.is_taken else "is not computed"
        _log.info("%s %s in %s: %s", model.model_id, verb, precision, record.reason)
        try:
            await asyncio.to_thread(self._records.put, use, record)
        except OSError as exc:
            _log.warning("It will be checked again, for it could not be noted: %s", exc.strerror)
        return record

    async def _take(self, users: Sequence[_User], precision: Precision, made_file: str | None) -> None:
        """Exchange the network under each detector, between two of its pictures; compiled for their sizes before."""
        for loaded, detector in users:
            before = detector.model
            if before.shared.precision != precision:
                model = await self._load(before, precision, made_file)
                await asyncio.to_thread(model.shared.compile_as, before.shared)
                detector.use(model)
                loaded.exchange(model)

    async def _make_file(self, detector: YOLODetector, precision: Precision, pictures: Sequence[Frame]) -> str | None:
        """Make what a lower precision needs of its own: for int8 a quantised network, which takes half a minute."""
        if precision != "int8":
            return None
        fed = await asyncio.to_thread(lambda: [detector.fed(picture) for picture in pictures])
        return str(await asyncio.to_thread(self._models.quantise, detector.model, fed))

    async def _load(self, model: LoadedModel, precision: Precision, made_file: str | None) -> LoadedModel:
        compiled_from = None if made_file is None else Path(made_file)
        return await self._manager.load_model(model.config, precision=precision, compiled_from=compiled_from)


def _read_samples(paths: Sequence[Path]) -> list[Frame]:
    """Read pictures, each bounded by its header; what is none is passed over with a warning."""
    frames = []
    for number, path in enumerate(paths[:_MAX_SAMPLES]):
        try:
            picture = decode_picture(_read_bounded(path), where=f"sample {path.name}")
        except (DamagedPictureError, DetectorWorkerError, OSError) as exc:
            _log.warning("A sample of the archive cannot be used: %s: %s", path.name, exc)
        else:
            frames.append(Frame(picture, camera_id="", frame_id=number, time_s=0.0, captured_at=0.0))
    return frames


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_SAMPLE_BYTES)


def _refusal(detector: YOLODetector, what: str, mend: str) -> ModelLoadError:
    return ModelLoadError(what, where=f"model {detector.model.model_id}", mend=mend)
