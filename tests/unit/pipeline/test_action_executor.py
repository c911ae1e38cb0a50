"""What each kind of action leaves in the outbox."""

import hashlib
import json
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter
from support.pipeline_runs import (
    CAPTURED_AT,
    RECORD_ID,
    RecordingOutbox,
    make_actions,
    make_context,
    make_frame,
    make_shot,
    make_visit,
)

from detector_worker.core.entities import BoundingBox
from detector_worker.core.exceptions import ActionExecutionError, PipelineError, ServiceError
from detector_worker.core.frame import Frame
from detector_worker.core.outbox import (
    CreateRecord,
    EnsureTables,
    PublishMessage,
    SavedVisit,
    Sink,
    StoreImage,
    UpdateRecord,
)
from detector_worker.models.pipeline_config import ActionConfig
from detector_worker.pipeline.action_executor import ActionType
from detector_worker.pipeline.context import PipelineContext
from detector_worker.pipeline.pictures import compress_image, crop_region_from_frame

_ACTIONS: TypeAdapter[list[ActionConfig]] = TypeAdapter(list[ActionConfig])
CREATE = {
    "type": "postgresql_create_record",
    "table": "cars",
    "fields": {"seen_at": "{timestamp}", "id": "{record_id}", "note": None},
}
IMAGE = {"type": "redis_save_image", "region": "plate", "key": "plates:{filename}", "expire_seconds": 600}
PUBLISH = {"type": "publish_message", "channel": "seen:{camera_id}", "message": {"image": "{redis_save_image.key}"}}
UPDATE = {
    "type": "postgresql_update_combined",
    "table": "cars",
    "key_field": "id",
    "key_value": "{record_id}",
    "fields": {"brand": "{brand_v1.brand}", "x": "{bbox.x1}"},
}


async def carry_out(
    *actions: dict[str, Any], context: PipelineContext | None = None, tables: Any = None
) -> tuple[RecordingOutbox, PipelineContext]:
    outbox, context = RecordingOutbox(), context or make_context()
    await make_actions(outbox, tables).execute_actions(_ACTIONS.validate_python(list(actions)), context.frame, context)
    return outbox, context


def image_of(outbox: RecordingOutbox) -> np.ndarray[Any, Any]:
    (stored,) = outbox.deliveries(StoreImage)
    image = cv2.imdecode(np.frombuffer(stored.image, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


async def test_actions_are_accepted_together_in_their_order() -> None:
    outbox, _ = await carry_out(CREATE, IMAGE, PUBLISH)

    (batch,) = outbox.batches
    assert [entry.key.removeprefix(f"{RECORD_ID}:") for entry in batch] == [
        "postgresql_create_record",
        "redis_save_image",
        "publish_message",
    ]
    assert [entry.sink for entry in batch] == [Sink.POSTGRESQL, Sink.REDIS, Sink.REDIS]
    assert {entry.visit_id for entry in batch} == {RECORD_ID}


async def test_the_same_visit_run_again_gives_the_same_idempotency_keys() -> None:
    first, second = [await carry_out(CREATE, IMAGE, {**PUBLISH, "id": "told"}) for _ in range(2)]

    keys = [entry.key for entry in first[0].entries]
    assert len(set(keys)) == 3
    assert keys == [entry.key for entry in second[0].entries]


async def test_the_first_acceptance_carries_the_visit_and_a_later_one_does_not() -> None:
    saved = SavedVisit("display-001;cam-001", make_visit(), CAPTURED_AT)
    context = make_context(saved_visit=saved)
    outbox, actions = RecordingOutbox(), _ACTIONS.validate_python([CREATE])

    for _ in range(2):
        await make_actions(outbox).execute_actions(actions, context.frame, context)

    assert outbox.visits == [saved, None]


async def test_a_visit_without_actions_is_accepted_all_the_same() -> None:
    saved = SavedVisit("display-001;cam-001", make_visit(), CAPTURED_AT)

    outbox, _ = await carry_out(context=make_context(saved_visit=saved))

    assert (outbox.batches, outbox.visits) == ([[]], [saved])


async def test_what_was_refused_counts_as_neither_written_nor_saved() -> None:
    saved = SavedVisit("display-001;cam-001", make_visit(), CAPTURED_AT)
    context = make_context(saved_visit=saved)

    with pytest.raises(ServiceError):
        await make_actions(RecordingOutbox(refuses=True)).execute_actions(
            _ACTIONS.validate_python([CREATE]), context.frame, context
        )

    assert context.fields == {}
    assert context.saved_visit is saved


async def test_a_record_is_keyed_by_the_column_of_the_record_id() -> None:
    outbox, context = await carry_out(CREATE)

    values = {"seen_at": "2026-01-31T09:26:53.589Z", "id": RECORD_ID, "note": None}
    assert outbox.deliveries(CreateRecord) == [CreateRecord("cars", "id", values)]
    assert context.fields == values
    assert context.intermediate_results == {"postgresql_create_record": {"key": RECORD_ID, "record_id": RECORD_ID}}
    assert context.warnings == []


async def test_without_a_record_id_column_the_declared_primary_key_is_taken() -> None:
    create = {**CREATE, "fields": {"note": "x", "session": "{session_id}"}}

    outbox, context = await carry_out(
        create, tables={"cars": {"note": "text", "session": "text  PRIMARY\nKEY", "other": "text"}}
    )

    assert outbox.deliveries(CreateRecord)[0].key_field == "session"
    assert context.intermediate_results["postgresql_create_record"]["key"] == "s-1"
    assert context.warnings == []


async def test_where_no_key_is_known_the_first_column_is_taken_with_a_warning() -> None:
    outbox, context = await carry_out({**CREATE, "fields": {"note": "x", "session": "{session_id}"}})

    assert outbox.deliveries(CreateRecord)[0].key_field == "note"
    assert "'note' is taken" in context.warnings[0]


async def test_a_single_write_is_pending_in_its_run_under_the_kinds_own_name() -> None:
    context = make_context()

    key = await make_actions(RecordingOutbox()).postgresql_create("cars", {"id": "{record_id}"}, context)

    assert key == RECORD_ID
    assert [entry.key for entry in context.pending] == [f"{RECORD_ID}:postgresql_create_record"]


@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
async def test_a_class_is_cut_out_of_the_full_frame_in_the_format_asked_for(image_format: str) -> None:
    outbox, context = await carry_out({**IMAGE, "format": image_format, "quality": 95})

    image = image_of(outbox)
    assert image.shape == (20, 60, 3)
    assert image.mean() > 245
    extension = {"jpeg": "jpg"}.get(image_format, image_format)
    assert context.intermediate_results["redis_save_image"] == {"key": f"plates:{RECORD_ID}.{extension}"}
    assert outbox.deliveries(StoreImage)[0].expire_s == 600


async def test_a_class_is_found_regardless_of_case() -> None:
    outbox, _ = await carry_out({**IMAGE, "region": "PLATE"})

    assert image_of(outbox).shape == (20, 60, 3)


async def test_the_whole_frame_is_stored_in_its_full_size() -> None:
    outbox, _ = await carry_out({**IMAGE, "region": "frame"})

    assert image_of(outbox).shape == (360, 640, 3)


async def test_best_is_the_whole_object_of_the_best_shot() -> None:
    best = make_shot(grey=100)
    best.frame.bgr()[40:200, 101:300] = (255, 0, 0)

    outbox, _ = await carry_out(
        {**IMAGE, "region": "best"}, context=make_context(make_visit(shots=(best, make_shot())))
    )

    image = image_of(outbox)
    assert image.shape == (160, 200, 3)
    assert image[80, 100, 0] > 240


@pytest.mark.parametrize(("region", "ago_s"), [("frame", 0), ("best", 1.5)])
async def test_a_picture_knows_its_frame_s_time_and_its_own_digest(region: str, ago_s: float) -> None:
    best = make_shot(grey=100)
    best.frame.captured_at = CAPTURED_AT - 1.5

    outbox, _ = await carry_out({**IMAGE, "region": region}, context=make_context(make_visit(shots=(best,))))

    (stored,) = outbox.deliveries(StoreImage)
    assert stored.captured_at == CAPTURED_AT - ago_s
    assert stored.sha256 == hashlib.sha256(stored.image).hexdigest()


async def test_a_class_that_is_hidden_in_this_frame_is_taken_from_a_shot() -> None:
    context = make_context(make_visit(parts=False, shots=(make_shot(plate=False), make_shot())))

    outbox, _ = await carry_out(IMAGE, context=context)

    assert image_of(outbox).shape == (20, 60, 3)


async def test_an_absent_class_leaves_its_picture_out_with_a_warning_and_is_no_error() -> None:
    outbox, context = await carry_out(IMAGE, PUBLISH, context=make_context(make_visit(parts=False)))

    (message,) = outbox.deliveries(PublishMessage)
    assert json.loads(message.message) == {"image": None}
    assert outbox.deliveries(StoreImage) == []
    assert context.warnings == ["redis_save_image: no 'plate' was seen, so no picture of it is stored"]
    assert context.unresolved == ["redis_save_image.key"]
    assert not context.has_failed_action


async def test_a_picture_that_cannot_be_made_does_not_cost_the_record() -> None:
    visit = make_visit(parts=False)
    visit.bounding_box = BoundingBox(5000, 5000, 5100, 5100)

    outbox, context = await carry_out(CREATE, {**IMAGE, "region": "car"}, context=make_context(visit))

    assert [type(entry.delivery) for entry in outbox.entries] == [CreateRecord]
    assert context.has_failed_action
    assert "a picture of 0 x 0 as jpeg" in context.warnings[0]


async def test_an_unexpected_error_of_one_action_does_not_cost_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenFrame(Frame):
        def bgr(self) -> NDArray[np.uint8]:
            raise OSError("swscale")

    context = make_context()
    frame = BrokenFrame(make_frame().bgr(), camera_id="c", frame_id=1, time_s=0, captured_at=0)
    outbox = RecordingOutbox()

    await make_actions(outbox).execute_actions(_ACTIONS.validate_python([IMAGE, CREATE]), frame, context)

    assert [type(entry.delivery) for entry in outbox.entries] == [CreateRecord]
    assert context.warnings == ["redis_save_image: an unexpected error; the log has the details"]
    assert "swscale" in caplog.text


async def test_an_update_names_its_row_and_its_columns() -> None:
    context = make_context()
    context.branch_results["brand_v1"] = {"brand": "Toyota", "confidence": 0.9}

    outbox, context = await carry_out(UPDATE, context=context)

    assert outbox.deliveries(UpdateRecord) == [
        UpdateRecord("cars", "id", RECORD_ID, {"brand": "Toyota", "x": 100.5}),
    ]
    assert context.fields == {"brand": "Toyota", "x": 100.5}
    assert context.warnings == []


@pytest.mark.parametrize("waits", [{}, {"waitForBranches": ["brand_v1"]}])
async def test_an_update_whose_branch_failed_is_made_with_null_and_a_warning(waits: dict[str, Any]) -> None:
    context = make_context()
    context.branch_results["brand_v1"] = {"error": "no result within 30 s", "type": "timeout"}

    outbox, context = await carry_out({**UPDATE, **waits}, context=context)

    assert outbox.deliveries(UpdateRecord)[0].fields == {"brand": None, "x": 100.5}
    assert context.unresolved == ["brand_v1.brand"]
    assert context.warnings == [
        "postgresql_update_combined: 'brand_v1' gave no result, so its columns of 'cars' are NULL"
    ]


async def test_an_update_without_a_key_is_left_out_and_told() -> None:
    outbox, context = await carry_out({**UPDATE, "key_value": "{nobody.key}"})

    assert outbox.entries == []
    assert context.has_failed_action
    assert "'{nobody.key}' has no value" in context.warnings[0]


async def test_the_declared_tables_go_before_the_first_run() -> None:
    outbox, tables = RecordingOutbox(), {"cars": {"id": "uuid primary key"}}

    await make_actions(outbox, tables).declare_tables()

    assert outbox.deliveries(EnsureTables) == [EnsureTables(tables)]


async def test_without_declared_tables_nothing_is_asked_of_the_database() -> None:
    outbox = RecordingOutbox()

    await make_actions(outbox).declare_tables()

    assert outbox.batches == []


async def test_a_message_is_published_as_json_with_its_types() -> None:
    publish = {**PUBLISH, "message": {"track": "{track_id}", "at": ["{timestamp}"]}, "maxAgeSeconds": 5}

    outbox, _ = await carry_out(publish)

    (message,) = outbox.deliveries(PublishMessage)
    assert (message.channel, message.max_age_s) == ("seen:cam-001", 5)
    assert json.loads(message.message) == {"track": 7, "at": ["2026-01-31T09:26:53.589Z"]}


async def test_a_message_of_plain_text_is_published_as_it_is() -> None:
    outbox, _ = await carry_out({**PUBLISH, "message": "open {camera_id}"})

    assert outbox.deliveries(PublishMessage)[0].message == "open cam-001"


async def test_an_action_whose_condition_does_not_hold_leaves_nothing() -> None:
    outbox, context = await carry_out({**CREATE, "when": {"field": "class_name", "equals": "bus"}})

    assert outbox.entries == []
    assert context.intermediate_results == {}


async def test_a_wrong_template_is_told_as_it_stands() -> None:
    with pytest.raises(PipelineError, match=r"'\{a!r\}'"):
        await make_actions(RecordingOutbox()).postgresql_create("cars", {"note": "{a!r}"}, make_context())


def test_aliases_in_archives_are_the_same_kinds_of_actions() -> None:
    assert ActionType("postgresql_update_combined") is ActionType.POSTGRESQL_UPDATE
    assert ActionType("redis_publish") is ActionType.PUBLISH_MESSAGE


def test_a_crop_has_the_pixels_its_box_touches_and_its_padding() -> None:
    crop = crop_region_from_frame(make_frame(), BoundingBox(10.4, 20.6, 110.4, 70.6), padding=0.1)

    # 10 pixels to each side, 5 above and below, then out to whole pixels.
    assert crop.shape == (61, 121, 3)


def test_a_crop_ends_where_the_frame_ends() -> None:
    crop = crop_region_from_frame(make_frame(), BoundingBox(-30, -5, 20, 1000), padding=0.5)

    assert crop.shape == (360, 45, 3)


def test_a_crop_is_a_view_and_no_copy() -> None:
    frame = make_frame()

    assert np.shares_memory(crop_region_from_frame(frame, BoundingBox(1, 2, 30, 40)), frame.bgr())


def test_a_picture_too_large_for_its_format_is_told() -> None:
    with pytest.raises(ActionExecutionError, match="20000 x 2 as webp"):
        compress_image(np.zeros((2, 20000, 3), np.uint8), "webp", quality=90)
