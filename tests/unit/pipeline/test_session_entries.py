"""What a run tells of itself to its session."""

from typing import Any

import pytest
from pydantic import TypeAdapter
from support.pipeline_runs import RECORD_ID, RecordingOutbox, make_context, make_frame, make_visit

from detector_worker.core.clock import SystemClock
from detector_worker.core.exceptions import ServiceError
from detector_worker.core.outbox import RecordPlace, SavedVisit, SessionEntry
from detector_worker.models.pipeline_config import ActionConfig, SessionTarget
from detector_worker.pipeline.action_executor import ActionExecutor
from detector_worker.pipeline.context import PipelineContext

ACTIONS: TypeAdapter[list[ActionConfig]] = TypeAdapter(list[ActionConfig])
CREATE = {"type": "postgresql_create_record", "table": "cars", "fields": {"id": "{record_id}"}}
PUBLISH = {"type": "publish_message", "channel": "c", "message": "m"}
OWN_ROW = RecordPlace("cars", "id", RECORD_ID)


async def carry_out(
    *batches: list[dict[str, Any]], context: PipelineContext | None = None, session: SessionTarget | None = None
) -> list[SessionEntry | None]:
    outbox, context = RecordingOutbox(), context or make_context()
    executor = ActionExecutor(outbox=outbox, clock=SystemClock(), tables={}, session=session)
    for actions in batches:
        await executor.execute_actions(ACTIONS.validate_python(actions), make_frame(), context)
    return outbox.sessions


async def test_the_first_entries_bring_the_place_of_the_first_row_and_later_ones_nothing() -> None:
    other = {**CREATE, "id": "other", "table": "trucks"}

    told = await carry_out([PUBLISH, CREATE, other], [{**PUBLISH, "id": "again"}])

    assert told == [SessionEntry("s-1", "cam-001", RECORD_ID, OWN_ROW), None]


async def test_a_row_that_is_made_later_is_told_then() -> None:
    told = await carry_out([PUBLISH], [{**PUBLISH, "id": "again"}], [CREATE])

    assert [one and one.place for one in told] == [None, None, OWN_ROW]
    assert told[0] is not None
    assert told[1] is None


async def test_a_visit_that_writes_nothing_opens_its_session_too() -> None:
    context = make_context(session_id=None, saved_visit=SavedVisit("desk;cam-001", make_visit(), 1.0))

    assert await carry_out([], context=context) == [SessionEntry(RECORD_ID, "cam-001", RECORD_ID, None)]


async def test_the_archives_own_target_goes_by_the_session() -> None:
    target = SessionTarget.model_validate({"table": "shifts", "keyField": "number"})

    told = await carry_out([CREATE], context=make_context(session_id=17), session=target)

    assert told == [SessionEntry(17, "cam-001", RECORD_ID, RecordPlace("shifts", "number", 17))]


async def test_what_was_refused_is_told_again() -> None:
    outbox, context = RecordingOutbox(refuses=True), make_context()
    executor = ActionExecutor(outbox=outbox, clock=SystemClock(), tables={})
    with pytest.raises(ServiceError):
        await executor.execute_actions(ACTIONS.validate_python([CREATE]), make_frame(), context)
    outbox.refuses = False

    await executor.execute_actions(ACTIONS.validate_python([{**CREATE, "id": "again"}]), make_frame(), context)

    assert outbox.sessions == [SessionEntry("s-1", "cam-001", RECORD_ID, OWN_ROW)]
