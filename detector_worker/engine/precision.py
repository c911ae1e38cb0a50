"""In which precision the detectors of a group are computed: f32, or a lower one that was seen to find the same."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import Detections
from detector_worker.core.exceptions import DetectorWorkerError, ModelLoadError
from detector_worker.core.frame import Frame, Region
from detector_worker.detection.box_math import iou_matrix
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
_OBJECTS: Final = 60
_SAME_PLACE_IOU: Final = 0.7
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
    objects: int = 0
    newest_s: float = float("-inf")
    shown: dict[YOLODetector, NDArray[np.float64]] = field(default_factory=dict)
    """What was in the last picture that was kept of each detector: xyxy, shape (N, 4)."""

    @property
    def is_full(self) -> bool:
        return len(self.pictures) >= (_PICTURES if self.objects >= _OBJECTS else _MAX_PICTURES)

    def count_new(self, detector: YOLODetector, xyxy: NDArray[np.float64]) -> int:
        """Return how many objects stand where none stood: a parked car says the same every time."""
        before = self.shown.get(detector, np.empty((0, 4)))
        return int((iou_matrix(xyxy, before).max(axis=1, initial=0.0) < _SAME_PLACE_IOU).sum())


class PrecisionChoice:
    """Decides for every detector of a group. Used on one event loop, but for `observe`."""

    def __init__(self, models: GroupModels) -> None:
        self._models, self._manager, self._records = models, models.manager, models.precisions
        self._by_use: dict[str, _Collection] = {}
        self._by_detector: dict[YOLODetector, _Collection] = {}
        self._judging: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._making = asyncio.Semaphore(1)
        self._undecided: set[tuple[str, str]] = set()
        """Uses, with the archives whose samples say nothing about them."""
        self._looked_s = 0.0

    async def settle(
        self, loaded: LoadedPipeline, detector: YOLODetector, wish: PrecisionWish, *, is_live: bool
    ) -> None:
        """Give a new detector its precision, by what was asked for, what is known, or the archive's samples.

        Where ``auto`` finds nothing to judge by, a live one stays in f32 until its cameras have shown enough; where a
        lower precision cannot be had after all, it stays in f32 for good.

        Raises:
            ModelError: The precision that was asked for by name cannot be had.
        """
        lower = self._models.lower_precisions
        if wish == "auto" and lower:
            try:
                await self._settle_by_itself(loaded, detector, lower[0], is_live=is_live)
            except DetectorWorkerError as exc:
                _log.error("%s stays in f32: %s", detector.model.model_id, exc)
        elif wish not in {"auto", "f32", *lower}:
            mend = "Ask for auto or f32; `detector-worker doctor` shows what there is."
            raise _refusal(detector, f"This machine does not compute in {wish}", mend)
        elif wish == "int8":
            pictures = await asyncio.to_thread(_read_samples, loaded.samples, detector)
            await self._take((loaded, detector), wish, await self._make_file(detector, wish, pictures))
        elif wish == "bf16":
            await self._take((loaded, detector), wish, None)

    def observe(self, detector: YOLODetector, frame: Frame, found: Detections, region: Region | None) -> None:
        """Keep a picture that shows something new, where one is wanted; in any thread, at no cost elsewhere."""
        collection = self._by_detector.get(detector)
        if collection is None or collection.is_full or frame.time_s - collection.newest_s < _BETWEEN_PICTURES_S:
            return
        sure = found.confidence >= detector.model.settings.min_confidence
        xyxy = found.xyxy[sure].astype(np.float64)
        if new := collection.count_new(detector, xyxy):
            collection.newest_s, collection.shown[detector] = frame.time_s, xyxy
            collection.pictures.append(detector.reduced(frame, region))
            collection.objects += new

    def forget(self, detector: YOLODetector) -> None:
        """A detector is used no longer."""
        collection = self._by_detector.pop(detector, None)
        if collection is not None:
            collection.users = [user for user in collection.users if user[1] is not detector]
            collection.shown.pop(detector, None)

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
                except Exception:  # noqa: BLE001 - no camera may suffer from it, nor the next collection
                    _log.exception("%s could not be tried: it stays in f32", collection.users[0][1].model.model_id)
                    self._end_collection(use)

    async def _settle_by_itself(
        self, loaded: LoadedPipeline, detector: YOLODetector, precision: Precision, *, is_live: bool
    ) -> None:
        wanted = loaded.config.wanted_classes()
        use = self._records.use_of(detector.model, wanted, self._manager.runtime.identity, precision)
        async with self._judging.setdefault(use, asyncio.Lock()):  # whoever comes second finds what the first found out
            record = await asyncio.to_thread(self._records.get, use)
            if record is None and loaded.samples and (use, loaded.sha256) not in self._undecided:
                self._undecided.add((use, loaded.sha256))
                pictures = await asyncio.to_thread(_read_samples, loaded.samples, detector)
                evidence = _Evidence(pictures, "the archive's samples")
                record = await self._check(use, precision, (loaded, detector), evidence)
        if record is not None:
            if record.is_taken:
                await self._take((loaded, detector), precision, record.made_file)
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
            collection.pictures, collection.objects = [], 0  # of another traffic, if these were not enough
        if record is not None:
            for user in self._end_collection(use):
                if record.is_taken:
                    try:
                        await self._take(user, collection.precision, record.made_file)
                    except DetectorWorkerError as exc:
                        _log.error("%s stays in f32: %s", user[1].model.model_id, exc)

    def _end_collection(self, use: str) -> Sequence[_User]:
        collection = self._by_use.pop(use, None)
        users = tuple(collection.users) if collection is not None else ()
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

    async def _take(self, user: _User, precision: Precision, made_file: str | None) -> None:
        """Exchange the network under a detector, between two of its pictures; compiled for their sizes before."""
        loaded, detector = user
        before = detector.model
        if before.shared.precision != precision:
            model = await self._load(before, precision, made_file)
            try:
                await asyncio.to_thread(model.shared.compile_as, before.shared)
            except BaseException:
                self._manager.unload_model(model)
                raise
            detector.use(model)
            loaded.exchange(model)

    async def _make_file(self, detector: YOLODetector, precision: Precision, pictures: Sequence[Frame]) -> str | None:
        """Make what a lower precision needs of its own: for int8 a quantised network, which takes half a minute."""
        if precision != "int8":
            return None
        fed = await asyncio.to_thread(lambda: [detector.fed(picture) for picture in pictures])
        [(shape, _)] = Counter(one.shape for one in fed).most_common(1) or [((), 0)]
        alike = [one for one in fed if one.shape == shape]
        if len(alike) < _LEAST_SAMPLES:
            mend = f"Put at least {_LEAST_SAMPLES} pictures of what its cameras see into samples/, or ask for auto."
            raise _refusal(detector, f"Of {len(alike)} pictures of one size no int8 network can be made", mend)
        async with self._making:
            return str(await asyncio.to_thread(self._models.quantise, detector.model, alike))

    async def _load(self, model: LoadedModel, precision: Precision, made_file: str | None) -> LoadedModel:
        compiled_from = None if made_file is None else Path(made_file)
        return await self._manager.load_model(model.config, precision=precision, compiled_from=compiled_from)


def _read_samples(paths: Sequence[Path], detector: YOLODetector) -> list[Frame]:
    """Read pictures, bounded by their headers and kept no larger than needed; what is none is passed over."""
    frames = []
    for number, path in enumerate(paths[:_MAX_SAMPLES]):
        try:
            picture = decode_picture(_read_bounded(path), where=f"sample {path.name}")
        except (DamagedPictureError, DetectorWorkerError, OSError) as exc:
            _log.warning("A sample of the archive cannot be used: %s: %s", path.name, exc)
        else:
            frame = Frame(picture, camera_id="", frame_id=number, time_s=0.0, captured_at=0.0)
            frames.append(detector.reduced(frame))
    return frames


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_SAMPLE_BYTES)


def _refusal(detector: YOLODetector, what: str, mend: str) -> ModelLoadError:
    return ModelLoadError(what, where=f"model {detector.model.model_id}", mend=mend)
