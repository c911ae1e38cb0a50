"""From a subscription to a lane that is ready to analyse."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import uuid_utils

from detector_worker.core.clock import Clock
from detector_worker.core.config import Configuration
from detector_worker.core.exceptions import MessageProcessingError
from detector_worker.core.outbox import Outbox
from detector_worker.detection.motion import MotionGate
from detector_worker.detection.visits import VisitTracker
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.engine.engine import SubscriptionSpec
from detector_worker.engine.group_models import GroupModels
from detector_worker.engine.lane import Analysed, Lane, WidthHeight
from detector_worker.engine.precision import PrecisionChoice
from detector_worker.engine.scheduler import Scheduler
from detector_worker.engine.slot import FrameSlot
from detector_worker.models.pipeline_config import PipelineConfig
from detector_worker.models.runtimes.runtime import Hw
from detector_worker.models.shared_model import LoadedModel, SharedModel
from detector_worker.pipeline.action_executor import ActionExecutor
from detector_worker.pipeline.pipeline_executor import PipelineExecutor

__all__ = ["LaneMaker"]

_log: Final = logging.getLogger(__name__)
_COMPILE_AGAIN_S: Final = 30.0


class LaneMaker:
    """Makes lanes, and compiles their detectors for what their cameras turn out to show. Used on one event loop.

    Args:
        configuration: All settings.
        models: Loads archives.
        outbox: Takes what the lanes' pipelines write.
        scheduler: Whose threads will analyse.
        clock: Of the pipelines' actions.
        emit: Takes each analysed frame, in the analysis thread.
    """

    def __init__(
        self,
        configuration: Configuration,
        models: GroupModels,
        *,
        outbox: Outbox,
        scheduler: Scheduler,
        clock: Clock,
        emit: Callable[[Lane, Analysed], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._models, self._outbox, self._scheduler, self._clock = models, outbox, scheduler, clock
        self._emit = emit
        self._default_fps, self._default_precision = configuration.streams.target_fps, configuration.models.precision
        self.precision: Final = PrecisionChoice(models)
        self._compiling: dict[tuple[SharedModel, Hw], asyncio.Task[None]] = {}

    async def make(
        self, spec: SubscriptionSpec, *, lossless: bool, observe: Callable[[Analysed], None] | None = None
    ) -> Lane:
        """Load an archive and make a lane of it, which nobody feeds or schedules yet.

        Args:
            spec: What to analyse, and with which archive.
            lossless: For files: no frame is dropped but those that the archive's own rate leaves out.
            observe: Takes every analysed frame, in the analysis thread.

        Raises:
            DetectorWorkerError: The archive cannot be used.
        """
        self._check_precision(spec)
        loaded = await self._models.loader.load_from_url(spec.model_url)
        pipeline = loaded.config
        with ExitStack() as undo:
            undo.callback(loaded.close)
            for warning in loaded.warnings:
                _log.warning("%s: %s", pipeline.model_id, warning)
            detectors = {model_id: YOLODetector(model) for model_id, model in loaded.models.items()}
            detector = YOLODetector(loaded.models[pipeline.model_id], wanted_classes=pipeline.wanted_classes())
            detectors[pipeline.model_id] = detector
            await self.precision.settle(
                loaded, detector, spec.options.precision or self._default_precision, is_live=not lossless
            )
            undo.callback(self.precision.forget, detector)
            actions = ActionExecutor(
                outbox=self._outbox, clock=self._clock, tables=pipeline.tables, session=pipeline.session
            )
            await actions.declare_tables()
            rate = spec.target_fps or pipeline.target_fps
            lane = Lane(
                spec,
                loaded,
                detector=detector,
                gate=_motion_gate(spec, pipeline),
                visits=_visit_tracker(spec, pipeline),
                executor=PipelineExecutor(actions=actions, detectors=detectors, run_inference=self._scheduler.run),
                slot=FrameSlot(target_fps=rate or (None if lossless else self._default_fps), lossless=lossless),
                wake=self._scheduler.wake,
                emit=self._emit if observe is None else _both(observe, self._emit),
                make_ready=_compile_now if lossless else self._compile_soon,
            )
            undo.pop_all()
        return lane

    def _check_precision(self, spec: SubscriptionSpec) -> None:
        offered = ("auto", "f32", *self._models.lower_precisions)
        if spec.options.precision not in {None, *offered}:
            raise MessageProcessingError(
                f"This machine does not compute in {spec.options.precision}",
                where=f"subscription {spec.subscription_id}",
                mend=f"It offers {', '.join(offered)}; int8 needs the extra `int8`, bf16 a processor that has it.",
                code="invalid_field",
                field="options.precision",
            )

    def retire(self, lane: Lane) -> None:
        """Take back what was made for a lane that is fed no longer, once its runs have ended."""
        self.precision.forget(lane.detector)
        lane.retire()

    def close(self) -> None:
        """Begin nothing further."""
        for task in self._compiling.values():
            task.cancel()

    def _compile_soon(self, lane: Lane, wh: WidthHeight) -> None:
        """Compile beside the frames, in whatever thread a reader asks; the reader never waits."""
        self._loop.call_soon_threadsafe(self._begin_compiling, lane, wh)

    def _begin_compiling(self, lane: Lane, wh: WidthHeight) -> None:
        """Compile once for all lanes that want the same: each would take a thread, only to wait."""
        model = lane.detector.model
        work = (model.shared, model.input_hw_for(wh))
        if work not in self._compiling:
            task = asyncio.create_task(self._compile(model, wh), name=f"compiling {model.model_id}")
            self._compiling[work] = task
            task.add_done_callback(lambda _: self._compiling.pop(work, None))

    async def _compile(self, model: LoadedModel, wh: WidthHeight) -> None:
        try:
            await asyncio.to_thread(model.compiled_for, wh)
        except Exception as exc:  # noqa: BLE001 - the pause must come, whatever it was
            _log.error("%s: pictures of %dx%d cannot be analysed, tried again: %s", model.model_id, *wh, exc)
            await asyncio.sleep(_COMPILE_AGAIN_S)
        else:
            self._models.manager.note_growth()


def _compile_now(lane: Lane, wh: WidthHeight) -> None:
    """A file's reader has time."""
    lane.detector.model.compiled_for(wh)


def _both(
    observe: Callable[[Analysed], None], emit: Callable[[Lane, Analysed], None]
) -> Callable[[Lane, Analysed], None]:
    def observe_and_emit(lane: Lane, analysed: Analysed) -> None:
        observe(analysed)
        emit(lane, analysed)

    return observe_and_emit


def _motion_gate(spec: SubscriptionSpec, pipeline: PipelineConfig) -> MotionGate | None:
    """Make what tells which frames of a subscription need no look, if its archive wants that."""
    if not pipeline.motion.enabled:
        return None
    ignored, recheck_s = spec.options.ignore_masks, pipeline.motion.recheck_seconds
    return MotionGate(recheck_seconds=recheck_s, region=spec.crop, ignored=ignored)


def _visit_tracker(spec: SubscriptionSpec, pipeline: PipelineConfig) -> VisitTracker:
    """Make what follows a subscription's objects."""
    return VisitTracker(
        camera_id=spec.camera_id,
        min_confidence=pipeline.min_confidence,
        stability=pipeline.stability,
        tracking=pipeline.tracking,
        expected_classes=pipeline.expected_classes,
        required_classes=pipeline.required_classes,
        trigger_classes=pipeline.trigger_classes,
        region=spec.crop,
        new_record_id=lambda: str(uuid_utils.uuid7()),
    )
