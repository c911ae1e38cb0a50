"""Runs of whole pipelines: order, isolation, status."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.pipeline_runs import (
    CAR,
    PLATE,
    RECORD_ID,
    FakeModel,
    RecordingOutbox,
    branch,
    detections,
    fails,
    make_actions,
    make_config,
    make_context,
    make_executor,
    make_frame,
    make_shot,
    make_visit,
    says,
    single_frame,
)

from detector_worker.core.entities import BoundingBox, ClassificationResult, PipelineResult, Shot
from detector_worker.core.frame import Frame
from detector_worker.core.outbox import CreateRecord, PublishMessage, StoreImage, UpdateRecord
from detector_worker.pipeline.context import PipelineContext
from detector_worker.pipeline.pipeline_executor import PipelineExecutor

CREATE = {"type": "postgresql_create_record", "table": "cars", "fields": {"id": "{record_id}"}}
UPDATE = {
    "type": "postgresql_update_combined",
    "table": "cars",
    "key_field": "id",
    "key_value": "{record_id}",
    "fields": {"brand": "{brand_v1.brand}", "body": "{bodytype_v1.body_type}"},
}
TOLD = {"type": "publish_message", "channel": "c", "message": "{brand_v1.brand}"}


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opens at the latest when the test ends, so that no thread outlives it."""
    event = threading.Event()
    yield event
    event.set()


async def run(
    models: dict[str, Any],
    *branches: dict[str, Any],
    outbox: RecordingOutbox | None = None,
    context: PipelineContext | None = None,
    **keys: Any,
) -> PipelineResult:
    config = make_config(branches=list(branches), **{"actions": [CREATE], "parallelActions": [UPDATE], **keys})
    return await make_executor(outbox or RecordingOutbox(), models).execute_pipeline(config, context or make_context())


async def test_a_complete_run_writes_the_record_then_what_the_branches_said() -> None:
    outbox = RecordingOutbox()

    result = await run(
        {"brand_v1": says("Toyota", 0.97), "bodytype_v1": says("sedan", 0.75)},
        branch("brand_v1"),
        branch("bodytype_v1"),
        outbox=outbox,
    )

    assert [[type(entry.delivery) for entry in batch] for batch in outbox.batches] == [[CreateRecord], [UpdateRecord]]
    assert result.status == "completed"
    assert result.classification_results == {
        "brand_v1": {"brand": "Toyota", "confidence": 0.97},
        "bodytype_v1": {"body_type": "sedan", "confidence": 0.75},
    }
    assert result.fields == {"id": RECORD_ID, "brand": "Toyota", "body": "sedan"}
    assert [detection.class_name for detection in result.detections] == ["car", "plate"]
    assert (result.unresolved, result.warnings) == ((), ())


async def test_a_pipeline_without_branches_completes() -> None:
    outbox = RecordingOutbox()

    result = await run({}, outbox=outbox, parallelActions=[{**TOLD, "message": "seen"}])

    assert result.status == "completed"
    assert len(outbox.deliveries(PublishMessage)) == 1


async def test_a_slow_branch_times_out_while_the_others_go_on(gate: threading.Event) -> None:
    slow = FakeModel(ClassificationResult("late", 1.0), wait_for=gate)
    outbox = RecordingOutbox()

    result = await run(
        {"brand_v1": slow, "bodytype_v1": says("sedan", 0.9)},
        branch("brand_v1", timeout_seconds=0.1),
        branch("bodytype_v1"),
        outbox=outbox,
    )
    gate.set()

    assert result.status == "partial"
    assert result.classification_results["brand_v1"] == {"error": "no result within 0.1 s", "type": "timeout"}
    assert result.classification_results["bodytype_v1"] == {"body_type": "sedan", "confidence": 0.9}
    assert outbox.deliveries(UpdateRecord)[0].fields == {"brand": None, "body": "sedan"}
    assert result.unresolved == ("brand_v1.brand",)


async def test_parallel_branches_run_side_by_side() -> None:
    # Each waits for the other: one after another they would never end.
    both = threading.Barrier(2, timeout=5)

    class Meeting(FakeModel):
        def classify(self, picture: Frame | np.ndarray[Any, Any], confidence_threshold: float, /) -> Any:
            both.wait()
            return super().classify(picture, confidence_threshold)

    answer = ClassificationResult("x", 0.9)
    result = await run(
        {"brand_v1": Meeting(answer), "bodytype_v1": Meeting(answer)}, branch("brand_v1"), branch("bodytype_v1")
    )

    assert result.status == "completed"


async def test_branches_that_are_not_parallel_run_in_their_order_beside_the_parallel_ones() -> None:
    begun: list[str] = []
    beside = threading.Event()

    class Noting(FakeModel):
        def classify(self, picture: Frame | np.ndarray[Any, Any], confidence_threshold: float, /) -> Any:
            answer = super().classify(picture, confidence_threshold)
            begun.append(str(answer.top_class))
            if answer.top_class == "a":
                assert beside.wait(5)  # only a branch beside it sets this
                begun.append("a ended")
            if answer.top_class == "c":
                beside.set()
            return answer

    models = {name: Noting(ClassificationResult(name, 0.9)) for name in "abc"}
    result = await run(models, branch("a", parallel=False), branch("b", parallel=False), branch("c"))

    assert [name for name in begun if name != "c"] == ["a", "a ended", "b"]
    assert result.status == "completed"


@pytest.mark.parametrize(
    ("model", "kind", "says_what"),
    [
        (fails(), "model_error", "The runtime failed"),
        (FakeModel(ValueError("secret detail")), "unexpected_error", "unexpected ValueError"),
    ],
)
async def test_an_error_stays_in_its_branch_and_is_told_by_its_kind(
    model: FakeModel, kind: str, says_what: str
) -> None:
    result = await run(
        {"brand_v1": model, "bodytype_v1": says("sedan", 0.9)}, branch("brand_v1"), branch("bodytype_v1")
    )

    failed = result.classification_results["brand_v1"]
    assert failed["type"] == kind
    assert says_what in str(failed["error"])
    assert "secret" not in str(failed)
    assert result.status == "partial"


async def test_a_model_that_is_not_loaded_fails_its_branch_alone() -> None:
    result = await run({"brand_v1": says("Toyota", 0.9)}, branch("brand_v1"), branch("bodytype_v1"))

    assert result.classification_results["bodytype_v1"]["type"] == "unexpected_error"
    assert result.status == "partial"


async def test_where_no_required_branch_succeeded_the_run_fails_and_the_record_remains() -> None:
    outbox = RecordingOutbox()

    result = await run(
        {"brand_v1": fails(), "bodytype_v1": says("sedan", 0.9)},
        branch("brand_v1"),
        branch("bodytype_v1", required=False),
        outbox=outbox,
    )

    assert result.status == "failed"
    assert [type(entry.delivery) for entry in outbox.entries] == [CreateRecord]
    assert result.fields == {"id": RECORD_ID}


async def test_where_no_branch_is_required_their_failure_is_partial() -> None:
    outbox = RecordingOutbox()

    result = await run({"brand_v1": fails()}, branch("brand_v1", required=False), outbox=outbox)

    assert result.status == "partial"
    assert len(outbox.deliveries(UpdateRecord)) == 1


async def test_one_required_branch_that_succeeded_is_enough() -> None:
    result = await run(
        {"brand_v1": fails(), "bodytype_v1": says("sedan", 0.9)}, branch("brand_v1"), branch("bodytype_v1")
    )

    assert result.status == "partial"


async def test_below_its_minimum_a_label_is_null_and_the_confidence_is_kept() -> None:
    result = await run({"brand_v1": says("Toyota", 0.49)}, branch("brand_v1", minConfidence=0.5))

    assert result.classification_results["brand_v1"] == {"brand": None, "confidence": 0.49}
    assert result.status == "completed"


@pytest.mark.parametrize("keys", [{"cropClass": "badge"}, {"triggerClasses": ["bus"]}])
async def test_without_what_it_looks_at_a_model_is_not_run_and_the_branch_succeeds(keys: dict[str, Any]) -> None:
    model = says("Toyota", 0.9)

    result = await run({"brand_v1": model}, branch("brand_v1", **keys))

    assert result.classification_results["brand_v1"] == {"brand": None, "confidence": None}
    assert model.pictures == []
    assert result.status == "completed"


@pytest.mark.parametrize(
    ("keys", "shape"),
    [
        ({}, (160, 200, 3)),
        ({"cropClass": "Plate"}, (20, 60, 3)),
        ({"cropClass": "plate", "cropPadding": 0.5}, (40, 120, 3)),
        ({"cropClass": "plate", "resizeTarget": [94, 24]}, (24, 94, 3)),
        ({"crop": False, "resizeTarget": [64, 32]}, (32, 64, 3)),
    ],
)
async def test_a_branch_sees_the_crop_it_asks_for(keys: dict[str, Any], shape: tuple[int, int, int]) -> None:
    model = says("x", 0.9)

    await run({"brand_v1": model}, branch("brand_v1", **keys))

    (picture,) = model.pictures
    assert isinstance(picture, np.ndarray)
    assert picture.shape == shape


async def test_a_branch_without_crop_sees_the_frame_itself() -> None:
    model, context = says("x", 0.9), make_context()

    await run({"brand_v1": model}, branch("brand_v1", crop=False), context=context)

    assert model.pictures == [context.frame]


async def test_without_voting_the_best_shot_that_shows_the_class_is_read() -> None:
    model = says("x", 0.9)
    shots = (make_shot(1, plate=False), make_shot(2), make_shot(3))

    await run({"brand_v1": model}, branch("brand_v1", cropClass="plate"), context=make_context(make_visit(shots=shots)))

    (picture,) = model.pictures
    assert isinstance(picture, np.ndarray)
    assert np.shares_memory(picture, shots[1].frame.bgr())


async def test_voting_reads_the_best_shots_and_joins_them() -> None:
    model = FakeModel(
        *(ClassificationResult(label, confidence) for label, confidence in (("A", 0.9), ("B", 0.8), ("A", 0.7)))
    )
    shots = tuple(make_shot(number) for number in range(4))

    result = await run(
        {"brand_v1": model},
        branch("brand_v1", voting={"frames": 3, "method": "confidence_weighted"}),
        context=make_context(make_visit(shots=shots)),
    )

    assert len(model.pictures) == 3
    assert result.classification_results["brand_v1"] == {"brand": "A", "confidence": pytest.approx(1.6 / 3)}


async def test_nested_branches_and_actions_follow_their_branch() -> None:
    outbox = RecordingOutbox()
    nested = branch("bodytype_v1")

    result = await run(
        {"brand_v1": says("Toyota", 0.9), "bodytype_v1": says("sedan", 0.8)},
        branch("brand_v1", actions=[TOLD], branches=[nested]),
        outbox=outbox,
    )

    assert [type(entry.delivery) for entry in outbox.entries] == [CreateRecord, PublishMessage, UpdateRecord]
    assert outbox.deliveries(PublishMessage)[0].message == "Toyota"
    assert outbox.deliveries(UpdateRecord)[0].fields == {"brand": "Toyota", "body": "sedan"}
    assert result.status == "completed"


async def test_nested_branches_of_a_failed_branch_are_not_run() -> None:
    nested = says("sedan", 0.8)

    result = await run(
        {"brand_v1": fails(), "bodytype_v1": nested, "class_v1": says("x", 0.9)},
        branch("brand_v1", branches=[branch("bodytype_v1")]),
        branch("class_v1"),
    )

    assert nested.pictures == []
    assert result.classification_results.keys() == {"brand_v1", "class_v1"}
    assert result.unresolved == ("brand_v1.brand", "bodytype_v1.body_type")
    assert result.status == "partial"


async def test_a_nested_branch_reads_what_its_detecting_parent_found() -> None:
    finder, reader = says(None, 0), says("AB 123", 0.9)
    finder.found = detections(("plate", PLATE, 0.8))

    result = await run(
        {"finder_v1": finder, "reader_v1": reader},
        branch("finder_v1", modelType="detection", branches=[branch("reader_v1", cropClass="plate")]),
        context=make_context(make_visit(parts=False)),
    )

    assert finder.regions == [(100, 40, 300, 200)]
    assert result.classification_results["finder_v1"] == {"class": "plate", "confidence": pytest.approx(0.8)}
    (picture,) = reader.pictures
    assert isinstance(picture, np.ndarray)
    assert picture.shape == (20, 60, 3)


async def test_an_action_after_a_detecting_branch_saves_what_that_one_found() -> None:
    finder, outbox = says(None, 0), RecordingOutbox()
    finder.found = detections(("plate", PLATE, 0.8))
    image = {"type": "redis_save_image", "region": "plate", "key": "plates:{record_id}"}

    result = await run(
        {"finder_v1": finder},
        branch("finder_v1", modelType="detection"),
        outbox=outbox,
        context=make_context(make_visit(parts=False)),
        parallelActions=[image],
    )

    assert len(outbox.deliveries(StoreImage)) == 1
    assert result.status == "completed"


async def test_the_frame_of_the_run_is_read_once_though_it_is_a_shot_as_well() -> None:
    model, context = says("x", 0.9), make_context()
    shots = (make_shot(1), Shot(context.frame, context.detections, 0.5))
    visit = make_visit(shots=shots)
    again = PipelineContext.from_visit(
        visit, context.frame, display_id="display-001", session_id=None, model_id="cars_v1"
    )

    await run({"brand_v1": model}, branch("brand_v1", voting={"frames": 5}), context=again)

    assert len(model.pictures) == 2


async def test_branches_side_by_side_lose_nothing_of_what_their_actions_write() -> None:
    outbox, names = RecordingOutbox(), [f"brand_v{number}" for number in range(6)]
    image = {"type": "redis_save_image", "region": "frame", "key": "frames:{record_id}"}
    branches = [
        branch(name, actions=[{**TOLD, "id": f"t{name}", "message": "x"}, {**image, "id": f"i{name}"}])
        for name in names
    ]

    result = await run({name: says("x", 0.9) for name in names}, *branches, outbox=outbox, parallelActions=[])

    wanted = {f"{RECORD_ID}:{kind}{name}" for kind in "ti" for name in names}
    assert sorted(entry.key for entry in outbox.entries[1:]) == sorted(wanted)
    assert result.status == "completed"


async def test_a_refused_record_fails_the_run_and_its_update_is_not_tried() -> None:
    outbox = RecordingOutbox(refuses=True)

    result = await run({"brand_v1": says("Toyota", 0.9)}, branch("brand_v1"), outbox=outbox)

    assert result.status == "failed"
    assert result.classification_results["brand_v1"] == {"brand": "Toyota", "confidence": 0.9}
    assert result.fields == {}
    assert result.warnings == ("The spool is full [spool]. Make room.",)


async def test_after_a_refusal_nothing_further_is_offered_though_there_were_room_again() -> None:
    outbox = RecordingOutbox(refuses=True)

    class MakingRoom(FakeModel):
        def classify(self, picture: Frame | np.ndarray[Any, Any], confidence_threshold: float, /) -> Any:
            outbox.refuses = False
            return super().classify(picture, confidence_threshold)

    model = MakingRoom(ClassificationResult("Toyota", 0.9))
    result = await run({"brand_v1": model}, branch("brand_v1", actions=[TOLD]), outbox=outbox)

    assert outbox.batches == []
    assert result.status == "failed"


async def test_an_action_that_failed_makes_the_run_partial() -> None:
    result = await run({}, parallelActions=[{**TOLD, "channel": "{brand_v1.brand}"}])

    assert result.status == "partial"


async def test_a_cancelled_run_leaves_no_task_behind(gate: threading.Event) -> None:
    slow = FakeModel(ClassificationResult("late", 1.0), wait_for=gate)
    before = asyncio.all_tasks()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await run({"brand_v1": slow}, branch("brand_v1"))

    gate.set()
    assert asyncio.all_tasks() == before


async def detect(found: Any, **keys: Any) -> tuple[PipelineResult, RecordingOutbox]:
    detector, outbox = says(None, 0), RecordingOutbox()
    detector.found = found
    executor = make_executor(outbox, {"cars_v1": detector})
    return await executor.execute_pipeline(make_config(actions=[CREATE], **keys), single_frame(make_frame())), outbox


async def test_a_single_frame_is_detected_first() -> None:
    result, outbox = await detect(
        detections(("plate", PLATE, 0.9), ("car", CAR, 0.8), ("tree", CAR, 0.9)),
        expectedClasses=["car"],
        triggerClasses=["plate"],
    )

    assert [detection.class_name for detection in result.detections] == ["car", "plate"]
    assert result.fields == {"id": RECORD_ID}
    assert len(outbox.entries) == 1


@pytest.mark.parametrize(
    "keys",
    [{"expectedClasses": ["bus"]}, {"triggerClasses": ["bus"]}, {"expectedClasses": ["car"], "requiredClasses": ["x"]}],
)
async def test_a_single_frame_without_what_the_pipeline_expects_runs_nothing(keys: dict[str, Any]) -> None:
    result, outbox = await detect(detections(("car", CAR, 0.8)), **keys)

    assert result.status == "completed"
    assert outbox.entries == []


async def test_of_several_objects_in_a_single_frame_the_largest_is_taken_with_its_own_parts() -> None:
    far, far_plate = BoundingBox(400, 40, 480, 100), BoundingBox(420, 80, 440, 90)

    result, _ = await detect(
        detections(("plate", far_plate, 0.95), ("car", far, 0.9), ("plate", PLATE, 0.6), ("car", CAR, 0.8))
    )

    assert [detection.bounding_box for detection in result.detections] == [CAR, PLATE]


async def test_detection_is_left_out_where_the_visit_brings_its_own() -> None:
    # No detector is loaded at all.
    executor = PipelineExecutor(actions=make_actions(RecordingOutbox()), detectors={}, run_inference=_no_inference)

    result = await executor.execute_pipeline(make_config(), make_context())

    assert result.status == "completed"


async def _no_inference(work: Any, /) -> Any:
    raise AssertionError("nothing was to be inferred")
