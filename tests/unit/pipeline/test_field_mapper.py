"""Templates become values, and nothing but values."""

import uuid
from typing import Any

import pytest
from support.pipeline_runs import RECORD_ID, make_context

from detector_worker.core.entities import FieldValue
from detector_worker.core.exceptions import PipelineError
from detector_worker.models.pipeline_config import Condition
from detector_worker.pipeline.context import PipelineContext
from detector_worker.pipeline.field_mapper import FieldMapper

BRANCHES: dict[str, dict[str, FieldValue]] = {
    "brand_v1": {"brand": "Toyota", "confidence": 0.97},
    "body_v1": {"body_type": None, "confidence": 0.2},
    "kind_v1": {"error": "no result within 30 s", "type": "timeout"},
}


def resolve(template: Any, context: PipelineContext | None = None, **options: str) -> FieldValue:
    return FieldMapper().resolve_fields({"it": template}, context or make_context(), BRANCHES, **options)["it"]


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{camera_id}", "cam-001"),
        ("{display_id}", "display-001"),
        ("{record_id}", RECORD_ID),
        ("{session_id}", "s-1"),
        ("{timestamp}", "2026-01-31T09:26:53.589Z"),
        ("{frame_id}", 42),
        ("{track_id}", 7),
        ("{filename}", f"{RECORD_ID}.jpg"),
        ("{model_id}", "cars_v1"),
        ("{class_name}", "car"),
        ("{confidence}", 0.93),
        ("{bbox.x1}", 100.5),
        ("{bbox.y2}", 200.0),
    ],
)
def test_every_plain_name_of_a_visit_has_its_value_with_its_type(template: str, value: FieldValue) -> None:
    resolved = resolve(template)

    assert resolved == value
    assert type(resolved) is type(value)


def test_uuid_is_a_fresh_one_each_time() -> None:
    first, second = (uuid.UUID(str(resolve("{uuid}"))) for _ in range(2))

    assert first != second


def test_a_session_that_is_not_set_is_the_record_id() -> None:
    assert resolve("{session_id}", make_context(session_id=None)) == RECORD_ID


def test_a_numeric_session_stays_a_number() -> None:
    assert resolve("{session_id}", make_context(session_id=4711)) == 4711


@pytest.mark.parametrize("value", [None, True, 3, 2.5])
def test_what_is_no_text_is_kept_as_it_is(value: FieldValue) -> None:
    assert resolve(value) is value


def test_values_within_a_text_are_written_as_json_writes_them() -> None:
    assert resolve("{camera_id}/{track_id}/{confidence}/{brand_v1.brand}") == "cam-001/7/0.93/Toyota"


def test_doubled_braces_are_braces() -> None:
    assert resolve("{{camera_id}} is {camera_id}") == "{camera_id} is cam-001"


def test_dictionaries_and_lists_are_filled_at_every_depth() -> None:
    template = {"a": ["{track_id}", {"b": "{brand_v1.brand}", "c": None}], "d": 1}

    assert resolve(template) == {"a": [7, {"b": "Toyota", "c": None}], "d": 1}


@pytest.mark.parametrize("text", ["{body_v1.body_type}", "a {body_v1.body_type}"])
def test_a_null_makes_its_text_null_and_counts_as_resolved(text: str) -> None:
    context = make_context()

    assert resolve(text, context) is None
    assert context.unresolved == []


@pytest.mark.parametrize("text", ["{missing_v1.class}", "a {missing_v1.class} {camera_id}"])
def test_a_name_without_value_makes_its_text_null_and_is_told(text: str) -> None:
    context = make_context()

    assert resolve(text, context) is None
    assert context.unresolved == ["missing_v1.class"]


def test_a_failed_branch_offers_neither_its_error_nor_its_kind() -> None:
    context = make_context()

    assert resolve({"kind": "{kind_v1.type}", "why": "{kind_v1.error}"}, context) == {"kind": None, "why": None}
    assert context.unresolved == ["kind_v1.type", "kind_v1.error"]


def test_results_of_earlier_actions_are_found_under_their_names() -> None:
    context = make_context()
    context.intermediate_results["picture"] = {"key": "images:7"}

    assert resolve("{picture.key}", context) == "images:7"


def test_an_action_cannot_stand_in_for_a_plain_name() -> None:
    context = make_context()
    context.intermediate_results["bbox"] = {"x1": "forged"}

    assert resolve("{bbox.x1}", context) == 100.5


def test_the_extension_of_the_file_name_is_the_callers() -> None:
    assert resolve("{filename}", extension="webp") == f"{RECORD_ID}.webp"


@pytest.mark.parametrize(
    "template",
    ["{0}", "{}", "{a[b]}", "{camera_id!r}", "{camera_id:>10}", "{camera_id:{track_id}}", "{", "a } b", "{a b}"],
)
def test_what_is_more_than_a_plain_name_is_refused(template: str) -> None:
    with pytest.raises(PipelineError, match="The template"):
        resolve(template)


@pytest.mark.parametrize(
    "template",
    ["{__class__}", "{camera_id.__class__}", "{x.__class__.__init__.__globals__}", "{frame.camera_id}", "{bbox.area}"],
)
def test_attributes_are_never_reached(template: str) -> None:
    assert resolve(template) is None


def test_a_value_that_looks_like_a_template_is_not_read_again() -> None:
    assert resolve("{session_id}!", make_context(session_id="{record_id}")) == "{record_id}!"


def test_nothing_is_resolved_where_one_template_is_wrong() -> None:
    context = make_context()

    with pytest.raises(PipelineError):
        FieldMapper().resolve_fields({"a": "{nobody.here}", "b": ["{"]}, context, {})
    assert context.unresolved == []


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"field": "class_name", "equals": "car"}, True),
        ({"field": "class_name", "equals": "bus"}, False),
        ({"field": "class_name", "not_equals": "bus"}, True),
        ({"field": "class_name", "not_equals": "car"}, False),
        ({"field": "confidence", "at_least": 0.93}, True),
        ({"field": "confidence", "at_least": 0.94}, False),
        ({"field": "confidence", "at_least": 0.5, "at_most": 0.9}, False),
        ({"field": "brand_v1.brand", "equals": "Toyota", "not_equals": "Mazda"}, True),
        ({"field": "class_name", "at_least": 1.0}, False),
        ({"field": "body_v1.body_type", "equals": None}, True),
        ({"field": "body_v1.body_type", "not_equals": None}, False),
        ({"field": "kind_v1.type", "not_equals": "car"}, False),
    ],
)
def test_a_condition_compares_one_field(condition: dict[str, Any], *, holds: bool) -> None:
    assert FieldMapper().holds(Condition.model_validate(condition), make_context(), BRANCHES) is holds
