"""One subscription's analysis: from the newest frame to visits."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from detector_worker.core.clock import Clock
from detector_worker.core.entities import DetectionResult, Detections, Visit, VisitEvent
from detector_worker.core.frame import Frame
from detector_worker.core.outbox import SavedVisit
from detector_worker.detection.motion import MotionGate
from detector_worker.detection.overlay import TrackSayings
from detector_worker.detection.tracking_manager import unsure_confidence
from detector_worker.detection.visits import VisitTracker
from detector_worker.detection.yolo_detector import YOLODetector, inside_frame, region_wh
from detector_worker.engine.engine import LaneResult, SubscriptionSpec
from detector_worker.engine.group_owner import LaneReport
from detector_worker.engine.rates import LatencyWindow, RateMeter
from detector_worker.engine.slot import FrameSlot
from detector_worker.models.pipeline_loader import LoadedPipeline
from detector_worker.pipeline.pipeline_executor import PipelineExecutor
from detector_worker.streams.detail_stream import DetailStream

__all__ = ["Analysed", "Lane"]

WidthHeight = tuple[int, int]

_SAVE_VISITS_EVERY_S: Final = 1.0
_MAX_RUNS_UNDER_WAY: Final = 16
_TICK_S: Final = 0.005
_LONGEST_ANALYSIS_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Analysed:
    """What one frame led to."""

    frame: Frame
    detections: Detections
    """Tracked, of the wanted classes, full-frame pixels."""
    events: list[VisitEvent]
    live_visits: list[Visit]
    """Every now and then: the visits that are under way, to be kept over a restart; else none."""


class Lane:
    """Analyses the newest frame of one camera for one subscription; one frame in flight.

    `offer` is called by the camera's reader, everything between `begin` and `end` by one analysis thread at a time,
    so tracker and visits need no lock; ``runs``, ``runs_under_way`` and ``sayings`` change on the event loop only.
    """

    def __init__(
        self,
        spec: SubscriptionSpec,
        loaded: LoadedPipeline,
        *,
        detector: YOLODetector,
        gate: MotionGate | None,
        visits: VisitTracker,
        executor: PipelineExecutor,
        slot: FrameSlot,
        wake: Callable[[], None],
        emit: Callable[["Lane", Analysed], None],
        make_ready: Callable[["Lane", WidthHeight], None],
    ) -> None:
        """Wire a lane.

        ``gate`` tells which frames show nothing new (None: all are analysed), ``emit`` takes each analysed frame in the
        analysis thread, ``wake`` tells that one waits, ``make_ready`` compiles the detector for pictures of a size, or
        begins to.
        """
        self.spec, self.loaded, self.pipeline = spec, loaded, loaded.config
        self.executor, self.visits, self.slot, self.wake = executor, visits, slot, wake
        self.live_detections = False
        self.detail: DetailStream | None = None
        """Where the small stream is analysed: the large one."""
        self.runs: Counter[str] = Counter()
        """Finished ones by their status."""
        self.runs_under_way = 0
        self.sayings = TrackSayings()
        self.newest: tuple[Frame, Detections] | None = None
        """The newest frame that was taken, with what is tracked in it; for whoever wants to see them."""
        self.detector = detector
        self._gate, self._emit, self._make_ready = gate, emit, make_ready
        self._is_retired = False
        self._in_flight = False
        self._arrived, self._analysed, self._dropped, self._still = (RateMeter() for _ in range(4))
        self._latency = LatencyWindow()
        self._saved_s = float("-inf")

    def offer(self, frame: Frame) -> None:
        """Take a frame from the reader; waits only where the slot is lossless."""
        if self.detail is not None:
            paired = self.detail.pair(frame)
            if paired is None:
                return
            frame = paired
        self._arrived.add(time.monotonic())
        if not self._make_ready_for(frame):
            return
        dropped = self.slot.dropped
        if self.slot.put(frame):
            if self.slot.dropped > dropped:
                self._dropped.add(time.monotonic())
            self.wake()

    def waiting_since_s(self) -> float | None:
        """Return when the waiting frame was captured, if the lane may be analysed now; many runs hold it back."""
        may_be_analysed = not self._in_flight and self.runs_under_way < _MAX_RUNS_UNDER_WAY
        return self.slot.waiting_since_s() if may_be_analysed else None

    def begin(self) -> Callable[[], None]:
        """Take the waiting frame; the returned call analyses it."""
        self._in_flight = True
        frame = self.slot.take()
        return lambda: self._analyse(frame)

    def end(self) -> None:
        """The frame in flight is done."""
        self._in_flight = False

    def make_ready_as(self, other: "Lane") -> None:
        """Compile for what another lane of the same camera has analysed last, if it has; blocks."""
        if other.newest is not None and (region := inside_frame(other.newest[0], self.spec.crop)) is not None:
            self.detector.model.compiled_for(region_wh(region))

    def end_run(self, status: str) -> None:
        """A run of a visit is over; the last one of a retired lane lets its models go."""
        self.runs[status] += 1
        self.runs_under_way -= 1
        self._close_when_drained()

    def retire(self) -> None:
        """Nothing is offered any more: let the models go as soon as the runs under way have ended."""
        self._is_retired = True
        self._close_when_drained()

    async def come_to_rest(self) -> None:
        """Wait until the frame in flight, if there is one, is done; not longer than ten seconds.

        For a lane that is offered nothing any more.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_ANALYSIS_S):
                while not self.is_idle:  # noqa: ASYNC110 - an analysis thread ends it, in some milliseconds
                    await asyncio.sleep(_TICK_S)

    def kept_visits(self, clock: Clock) -> tuple[SavedVisit, ...]:
        """Return the visits under way of a lane at rest, as they go on in the one that replaces it."""
        utc_s = clock.utc_s() - clock.monotonic_s()
        visits, interrupted = self.visits.live_visits(), self.visits.interrupted_visits()
        return tuple(
            SavedVisit(self.spec.subscription_id, visit, utc_s + visit.last_s, visit.record_id not in interrupted)
            for visit in visits
        )

    @property
    def still(self) -> int:
        """How many frames were passed over, since they showed nothing new."""
        return self._still.total

    @property
    def is_idle(self) -> bool:
        """No frame waits and none is in flight."""
        return not self._in_flight and self.slot.waiting_since_s() is None

    def result(self, frame_id: int, captured_at: float, detections: tuple[DetectionResult, ...]) -> LaneResult:
        """Return what is told of an analysed frame."""
        return LaneResult(
            subscription_id=self.spec.subscription_id,
            camera_id=self.spec.camera_id,
            frame_id=frame_id,
            captured_at=captured_at,
            detections=detections,
            final=False,
            model_id=self.spec.model_id,
            model_name=self.spec.model_name,
            pipeline_id=self.pipeline.model_id,
        )

    def report(self, *, errors: int, reconnects: int, damaged: int) -> LaneReport:
        """Return the figures of the last seconds."""
        now_s = time.monotonic()
        finished = self.runs["completed"], self.runs["partial"], self.runs["failed"]
        return LaneReport(
            subscription_id=self.spec.subscription_id,
            fps_in=self._arrived.per_second(now_s),
            fps_analysed=self._analysed.per_second(now_s),
            fps_dropped=self._dropped.per_second(now_s),
            fps_still=self._still.per_second(now_s),
            latency_ms=self._latency.percentiles_ms(),
            errors=errors,
            reconnects=reconnects,
            damaged=damaged,
            runs=(self.runs_under_way, *finished),
        )

    def _close_when_drained(self) -> None:
        if self._is_retired and not self.runs_under_way:
            self.loaded.close()

    def _make_ready_for(self, frame: Frame) -> bool:
        """Return whether the detector is compiled for what is analysed of a frame; if not, have that done."""
        region = inside_frame(frame, self.spec.crop)
        if region is None:
            return True  # nothing of it is
        wh, model = region_wh(region), self.detector.model
        if not model.is_ready_for(wh):
            self._make_ready(self, wh)
        return model.is_ready_for(wh)

    def _analyse(self, frame: Frame) -> None:
        """Look for objects, unless the frame shows nothing that the last analysed ones did not."""
        if self._gate is None:
            self._detect(frame)
        elif self._gate.is_still(frame):
            self._pass_over(frame)
        else:
            self._detect(frame)
            self._gate.note_analysed(at_rest=self.visits.at_rest())

    def _pass_over(self, frame: Frame) -> None:
        """What was tracked is still there, and whoever watches the detections is told so."""
        self.visits.pass_over(frame.time_s)
        self.newest = frame, self.visits.tracked
        self._still.add(time.monotonic())
        if self.live_detections:
            self._emit(self, Analysed(frame, self.visits.tracked, events=[], live_visits=[]))

    def _detect(self, frame: Frame) -> None:
        floor = unsure_confidence(self.pipeline.min_confidence)
        detections = self._keep_wanted(self.detector.detect(frame, floor, region=self.spec.crop))
        events = self.visits.update(detections, frame)
        self.newest = frame, self.visits.tracked
        now_s = time.monotonic()
        self._analysed.add(now_s)
        self._latency.add(now_s - frame.time_s)
        self._emit(self, Analysed(frame, self.visits.tracked, events, self._visits_to_save(frame.time_s)))

    def _keep_wanted(self, detections: Detections) -> Detections:
        """Drop small objects, and those in a masked region."""
        keep = np.ones(len(detections), np.bool_)
        options, xyxy = self.spec.options, detections.xyxy
        if options.min_size_px is not None:
            keep &= np.minimum(xyxy[:, 2] - xyxy[:, 0], xyxy[:, 3] - xyxy[:, 1]) >= options.min_size_px
        for x1, y1, x2, y2 in options.ignore_masks:
            centre_x, centre_y = (xyxy[:, 0] + xyxy[:, 2]) / 2, (xyxy[:, 1] + xyxy[:, 3]) / 2
            keep &= ~((centre_x >= x1) & (centre_x < x2) & (centre_y >= y1) & (centre_y < y2))
        return detections if keep.all() else detections.select(keep)

    def _visits_to_save(self, time_s: float) -> list[Visit]:
        if 0 <= time_s - self._saved_s < _SAVE_VISITS_EVERY_S:
            return []
        self._saved_s = time_s
        return self.visits.live_visits()
