"""One subscription's analysis: from the newest frame to visits."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.clock import Clock
from detector_worker.core.entities import Detections, Visit, VisitEvent
from detector_worker.core.frame import Frame
from detector_worker.core.outbox import SavedVisit
from detector_worker.detection.visits import VisitTracker
from detector_worker.detection.yolo_detector import YOLODetector
from detector_worker.engine.engine import SubscriptionSpec
from detector_worker.engine.messages import LaneReport
from detector_worker.engine.rates import LatencyWindow, RateMeter
from detector_worker.engine.slot import FrameSlot
from detector_worker.models.pipeline_config import PipelineConfig

__all__ = ["Analysed", "Lane"]

_LOW_CONFIDENCE: Final = 0.1
"""Below this a detection is not even used to continue a track (ByteTrack's lower bound)."""
_SAVE_VISITS_EVERY_S: Final = 2.0
_MAX_RUNS_UNDER_WAY: Final = 16


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

    `offer` is called by the camera's reader, everything between `begin` and `end` by one analysis thread
    at a time, so tracker and visits need no lock.
    """

    def __init__(
        self,
        spec: SubscriptionSpec,
        pipeline: PipelineConfig,
        *,
        detector: YOLODetector,
        visits: VisitTracker,
        target_fps: float | None,
        lossless: bool,
        wake: Callable[[], None],
        emit: Callable[["Lane", Analysed], None],
    ) -> None:
        """Wire a lane.

        Args:
            spec: What the client asked for.
            pipeline: What its archive says.
            detector: The pipeline's detector, shared with other lanes.
            visits: This lane's own tracker and visits.
            target_fps: Frames analysed per second at most; None: all.
            lossless: For files: the reader waits for the lane.
            wake: Called when a frame waits; thread-safe, quick.
            emit: Takes each analysed frame, in the analysis thread; quick.
        """
        self.spec, self.pipeline = spec, pipeline
        self.runs_under_way = 0
        """Pipeline runs of this lane; changed on the event loop only. Many of them hold the lane back."""
        self.slot = FrameSlot(target_fps=target_fps, lossless=lossless)
        self._lossless = lossless
        self._detector, self._visits = detector, visits
        self.wake, self._emit = wake, emit
        self._in_flight = False
        self._arrived, self._analysed, self._latency = RateMeter(), RateMeter(), LatencyWindow()
        self._dropped = RateMeter()
        self._wanted: dict[tuple[str, ...], NDArray[np.bool_]] = {}
        self._saved_s = 0.0

    def offer(self, frame: Frame) -> None:
        """Take a frame from the reader; waits only where the lane is lossless."""
        self._arrived.add(time.monotonic())
        dropped = self.slot.dropped
        if self.slot.put(frame):
            if self.slot.dropped > dropped:
                self._dropped.add(time.monotonic())
            self.wake()

    def waiting_since_s(self) -> float | None:
        """Return when the waiting frame was captured, if the lane may be analysed now."""
        if self._in_flight or self.runs_under_way >= _MAX_RUNS_UNDER_WAY:
            return None
        return self.slot.waiting_since_s()

    def begin(self) -> Callable[[], None]:
        """Take the waiting frame; the returned call analyses it."""
        self._in_flight = True
        frame = self.slot.take()
        return lambda: self._analyse(frame)

    def end(self) -> None:
        """The frame in flight is done."""
        self._in_flight = False

    @property
    def is_idle(self) -> bool:
        """No frame waits and none is in flight."""
        return not self._in_flight and self.slot.waiting_since_s() is None

    def restore(self, saved: Sequence[SavedVisit], clock: Clock) -> None:
        """Take over the visits of before a restart; before the lane is scheduled."""
        self._visits.restore(saved, now_s=clock.monotonic_s(), now_utc_s=clock.utc_s())

    def finish(self, time_s: float) -> list[VisitEvent]:
        """End all visits, as at the end of a file; only when the lane is idle and removed."""
        return self._visits.finish(time_s)

    def close(self) -> None:
        """Take no further frame."""
        self.slot.close()

    def report(self, *, errors: int, reconnects: int, runs: tuple[int, int, int]) -> LaneReport:
        """Return the figures of the last seconds."""
        now_s = time.monotonic()
        return LaneReport(
            subscription_id=self.spec.subscription_id,
            fps_in=self._arrived.per_second(now_s),
            fps_analysed=self._analysed.per_second(now_s),
            fps_dropped=self._dropped.per_second(now_s),
            latency_ms=self._latency.percentiles_ms(),
            errors=errors,
            reconnects=reconnects,
            runs_completed=runs[0],
            runs_partial=runs[1],
            runs_failed=runs[2],
            runs_under_way=self.runs_under_way,
        )

    def _analyse(self, frame: Frame) -> None:
        floor = min(_LOW_CONFIDENCE, self.pipeline.min_confidence)
        detections = self._detector.detect(frame, floor, region=self.spec.crop)
        detections = self._keep_wanted(detections)
        events = self._visits.update(detections, frame)
        self._analysed.add(time.monotonic())
        if not self._lossless:
            self._latency.add(time.monotonic() - frame.time_s)
        self._emit(self, Analysed(frame, self._visits.tracked, events, self._visits_to_save(frame.time_s)))

    def _keep_wanted(self, detections: Detections) -> Detections:
        """Drop classes that nothing asks for, small objects, and those in a masked region."""
        names = detections.class_names
        if names not in self._wanted:
            wanted = self.pipeline.wanted_classes()
            self._wanted[names] = np.array([not wanted or name.casefold() in wanted for name in names], dtype=np.bool_)
        keep = self._wanted[names][detections.class_id]
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
        return self._visits.live_visits()
