"""The pipeline runs of a group: one for each visit, on the group's event loop, a bounded number at once."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final

from detector_worker.core.entities import PipelineResult, Visit, VisitStarted
from detector_worker.core.exceptions import DetectorWorkerError
from detector_worker.core.outbox import Outbox, SavedVisit
from detector_worker.engine.engine import LaneResult, SessionId
from detector_worker.engine.lane import Lane
from detector_worker.models.pipeline_loader import LoadedPipeline
from detector_worker.pipeline.context import PipelineContext
from detector_worker.pipeline.pipeline_executor import PipelineExecutor

__all__ = ["LiveLane", "VisitRuns", "saved_visit"]

_log: Final = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class LiveLane:
    """A lane with all that belongs to it."""

    lane: Lane
    loaded: LoadedPipeline
    executor: PipelineExecutor
    live_detections: bool = False
    runs: Counter[str] = field(default_factory=Counter)
    """Finished ones, by their status."""


def saved_visit(lane: Lane, visit: Visit, last_seen_at: float) -> SavedVisit:
    """Return a visit as it is kept over a restart: pictures left out."""
    return SavedVisit(lane.spec.subscription_id, replace(visit, shots=()), last_seen_at)


class VisitRuns:
    """Runs pipelines and remembers visits. Used on one event loop."""

    def __init__(
        self, *, outbox: Outbox, max_at_once: int, sessions: dict[str, SessionId], tell: Callable[[LaneResult], None]
    ) -> None:
        """Wire it.

        Args:
            outbox: Where live visits are kept.
            max_at_once: Runs under way at once; further ones wait their turn.
            sessions: The session of each display; the owner changes it.
            tell: Takes each result.
        """
        self._outbox, self._sessions, self._tell = outbox, sessions, tell
        self._turns = asyncio.Semaphore(max_at_once)
        self._by_visit: dict[str, asyncio.Task[None]] = {}
        self._keeping: set[asyncio.Task[None]] = set()

    def begin(self, live: LiveLane, event: VisitStarted) -> None:
        """Run the pipeline of a visit that has become stable."""
        live.lane.runs_under_way += 1
        visit = event.visit
        context = PipelineContext.from_visit(
            visit,
            event.frame,
            display_id=live.lane.spec.display_id,
            session_id=self._sessions.get(live.lane.spec.display_id),
            model_id=live.lane.spec.model_id or live.lane.pipeline.model_id,
            saved_visit=saved_visit(live.lane, visit, event.frame.captured_at),
        )
        task = asyncio.create_task(self._run(live, context), name=f"run-{visit.record_id}")
        self._by_visit[visit.record_id] = task
        task.add_done_callback(lambda _: self._by_visit.pop(visit.record_id, None))

    def forget(self, record_id: str) -> None:
        """A visit has ended; it is forgotten once its run is over."""
        self._keep(self._forget(record_id), f"forget-{record_id}")

    def refresh(self, saved: SavedVisit) -> None:
        """Note where a live visit is now."""
        self._keep(self._save(saved), f"save-{saved.visit.record_id}")

    async def finish(self, *, timeout_s: float | None) -> list[str]:
        """Wait for what is under way; return the names of what had to be given up."""
        under_way = {*self._by_visit.values(), *self._keeping}
        if not under_way:
            return []
        _, late = await asyncio.wait(under_way, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return [task.get_name() for task in late]

    async def _run(self, live: LiveLane, context: PipelineContext) -> None:
        try:
            async with self._turns:
                result = await live.executor.execute_pipeline(live.lane.pipeline, context)
        except DetectorWorkerError as exc:
            live.runs["failed"] += 1
            _log.error("The run for record %s failed: %s", context.record_id, exc)
        except Exception:  # noqa: BLE001 - a run's boundary: its bug harms no other run
            live.runs["failed"] += 1
            _log.exception("The run for record %s failed", context.record_id)
        else:
            live.runs[result.status] += 1
            self._tell(_lane_result(live, context, result))
        finally:
            live.lane.runs_under_way -= 1
            live.lane.wake()

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _forget(self, record_id: str) -> None:
        if (run := self._by_visit.get(record_id)) is not None:
            await asyncio.wait({run})
        await self._tolerate(self._outbox.forget_visit(record_id))

    async def _save(self, saved: SavedVisit) -> None:
        await self._tolerate(self._outbox.save_visit(saved))

    async def _tolerate(self, keeping: Coroutine[Any, Any, None]) -> None:
        """A visit's last place may be a little old; the record itself never depends on it."""
        try:
            await keeping
        except DetectorWorkerError as exc:
            _log.warning("A visit's place could not be kept: %s", exc)


def _lane_result(live: LiveLane, context: PipelineContext, result: PipelineResult) -> LaneResult:
    spec = live.lane.spec
    return LaneResult(
        subscription_id=spec.subscription_id,
        camera_id=spec.camera_id,
        frame_id=context.frame_id,
        captured_at=context.timestamp,
        detections=result.detections,
        final=True,
        record_id=context.record_id,
        session_id=context.session_id,
        branches=result.classification_results,
        fields=result.fields,
        status=result.status,
        model_id=spec.model_id,
        model_name=spec.model_name,
        pipeline_id=live.lane.pipeline.model_id,
    )
