"""The pipeline runs of a group: one for each visit, on the group's event loop, a bounded number at once."""

import asyncio
import logging
import math
import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final

from detector_worker.core.entities import PipelineResult, Visit, VisitEnded, VisitEvent, VisitStarted
from detector_worker.core.exceptions import DetectorWorkerError
from detector_worker.core.outbox import SavedVisit
from detector_worker.engine.engine import LaneResult, SessionId
from detector_worker.engine.group_owner import GroupOwner
from detector_worker.engine.lane import Lane
from detector_worker.pipeline.context import PipelineContext

__all__ = ["VisitRuns", "lane_result"]

_log: Final = logging.getLogger(__name__)


class VisitRuns:
    """Runs pipelines and remembers visits. Used on one event loop; owns a task for each run.

    Args:
        owner: Keeps live visits and takes the results.
        max_at_once: Runs under way at once; further ones wait their turn.
        sessions: The session of each display; whoever made this changes it.
    """

    def __init__(self, *, owner: GroupOwner, max_at_once: int, sessions: Mapping[str, SessionId]) -> None:
        self._owner, self._sessions = owner, sessions
        self._turns = asyncio.Semaphore(max_at_once)
        self._by_visit: dict[str, asyncio.Task[None]] = {}
        self._keeping: set[asyncio.Task[None]] = set()

    def take(self, lane: Lane, event: VisitEvent) -> None:
        """Run the pipeline of a visit that has become stable; forget one that has ended, once its run is over."""
        match event:
            case VisitStarted():
                record_id = event.visit.record_id
                if record_id in self._by_visit:  # its subscription has ended and begun again meanwhile
                    return
                lane.runs_under_way += 1
                task = asyncio.create_task(self._run(lane, self._context(lane, event)), name=f"run {record_id}")
                self._by_visit[record_id] = task
                task.add_done_callback(lambda _: self._by_visit.pop(record_id, None))
            case VisitEnded(visit):
                _log.info(
                    "%s: the visit of record %s has ended, %.1f s long",
                    visit.camera_id,
                    visit.record_id,
                    visit.duration_s,
                )
                self._keep(self._forget(visit.record_id))

    def refresh(self, lane: Lane, visit: Visit, seen_at: float) -> None:
        """Note where a live visit is now."""
        self._keep(self._owner.save_visit(_saved(lane, visit, seen_at)))

    async def finish(self, *, timeout_s: float | None) -> list[str]:
        """Wait for what is under way; return the names of what had to be given up."""
        give_up_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while late := {*self._by_visit.values(), *self._keeping}:  # a run leaves something to keep at its end
            if (left_s := give_up_s - time.monotonic()) <= 0:
                break
            await asyncio.wait(late, timeout=None if timeout_s is None else left_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return [task.get_name() for task in late]

    def _context(self, lane: Lane, event: VisitStarted) -> PipelineContext:
        visit, spec = event.visit, lane.spec
        return PipelineContext.from_visit(
            visit,
            event.frame,
            display_id=spec.display_id,
            session_id=self._sessions.get(spec.display_id),
            model_id=spec.model_id or lane.pipeline.model_id,
            saved_visit=_saved(lane, visit, event.frame.captured_at),
        )

    async def _run(self, lane: Lane, context: PipelineContext) -> None:
        status, saved = "failed", context.saved_visit
        try:
            async with self._turns:
                result = await lane.executor.execute_pipeline(lane.pipeline, context)
            status = result.status
            if saved is not None and not context.is_refused:
                self._keep(self._owner.save_visit(replace(saved, is_complete=True)))
            lane.sayings.note(result.detections, result.classification_results)
            self._owner.on_result(lane_result(lane, context, result))
        except DetectorWorkerError as exc:
            _log.error("The run for record %s failed: %s", context.record_id, exc)
        except Exception:  # noqa: BLE001 - a run's boundary: its bug harms no other run
            _log.exception("The run for record %s failed", context.record_id)
        finally:
            lane.end_run(status)
            lane.wake()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._tolerate(work), name="a visit's place")
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _forget(self, record_id: str) -> None:
        if (run := self._by_visit.get(record_id)) is not None:
            await asyncio.wait({run})
        await self._owner.forget_visit(record_id)

    async def _tolerate(self, work: Coroutine[Any, Any, None]) -> None:
        """A visit's last place may be a little old; the record itself never depends on it."""
        try:
            await work
        except DetectorWorkerError as exc:
            _log.warning("A visit's place could not be kept: %s", exc)


def _saved(lane: Lane, visit: Visit, seen_at: float) -> SavedVisit:
    return SavedVisit(lane.spec.subscription_id, replace(visit, shots=()), seen_at, is_complete=False)


def lane_result(lane: Lane, context: PipelineContext, result: PipelineResult) -> LaneResult:
    """Return what is told of a finished run."""
    return replace(
        lane.result(context.frame_id, context.timestamp, result.detections),
        final=True,
        record_id=context.record_id,
        session_id=context.session_id,
        branches=result.classification_results,
        fields=result.fields,
        status=result.status,
    )
