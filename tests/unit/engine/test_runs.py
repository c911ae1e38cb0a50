"""The runs of a group: one for each visit, and what is kept of it at its end."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from support.pipeline_runs import CAPTURED_AT, RECORD_ID, make_frame, make_visit

from detector_worker.core.entities import PipelineResult, VisitStarted
from detector_worker.core.outbox import SavedVisit, SessionEntry, SpoolEntry
from detector_worker.engine.engine import LaneResult
from detector_worker.engine.group_owner import GroupOwner
from detector_worker.engine.lane import Lane
from detector_worker.engine.runs import VisitRuns

TAKES_S = 0.1


@dataclass
class SlowOwner:
    """Takes a while to keep a visit, as a disk does."""

    kept: list[SavedVisit] = field(default_factory=list)
    told: list[LaneResult] = field(default_factory=list)

    async def accept(
        self, entries: Sequence[SpoolEntry], *, visit: SavedVisit | None = None, session: SessionEntry | None = None
    ) -> None: ...

    async def save_visit(self, visit: SavedVisit) -> None:
        await asyncio.sleep(TAKES_S)
        self.kept.append(visit)

    def on_result(self, result: LaneResult) -> None:
        self.told.append(result)


def lane_that_takes(run_s: float) -> Lane:
    async def execute_pipeline(*_: object) -> PipelineResult:
        await asyncio.sleep(run_s)
        return PipelineResult("completed", (), {}, {})

    lane = SimpleNamespace(
        spec=SimpleNamespace(subscription_id="desk;cam-001", display_id="desk", model_id=None),
        pipeline=SimpleNamespace(model_id="model"),
        executor=SimpleNamespace(execute_pipeline=execute_pipeline),
        sayings=SimpleNamespace(note=lambda *_: None),
        result=lambda *_: LaneResult("desk;cam-001", "cam-001", 42, CAPTURED_AT, (), final=False),
        runs_under_way=0,
        end_run=lambda _: None,
        wake=lambda: None,
    )
    return cast("Lane", lane)


def new_runs(owner: SlowOwner) -> VisitRuns:
    return VisitRuns(owner=cast("GroupOwner", owner), max_at_once=4, sessions={})


STARTED = VisitStarted(make_visit(), make_frame())


async def test_whoever_waits_for_the_runs_waits_for_what_they_leave_at_their_end() -> None:
    owner = SlowOwner()
    runs = new_runs(owner)
    runs.take(lane_that_takes(TAKES_S), STARTED)

    assert await runs.finish(timeout_s=5.0) == []

    assert [(one.visit.record_id, one.is_complete) for one in owner.kept] == [(RECORD_ID, True)]


async def test_what_takes_too_long_is_given_up_by_its_name() -> None:
    runs = new_runs(SlowOwner())
    runs.take(lane_that_takes(60.0), STARTED)

    assert await runs.finish(timeout_s=0.05) == [f"run {RECORD_ID}"]


async def test_a_visit_whose_run_is_under_way_is_not_run_beside_it() -> None:
    owner: Any = SlowOwner()
    runs, lane = new_runs(owner), lane_that_takes(TAKES_S)
    for _ in range(2):  # its subscription has ended and begun again
        runs.take(lane, STARTED)

    await runs.finish(timeout_s=5.0)

    assert [one.record_id for one in owner.told] == [RECORD_ID]
