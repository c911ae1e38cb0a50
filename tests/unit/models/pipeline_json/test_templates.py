import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_models import tiny_pipeline

from detector_worker.core.exceptions import PipelineError
from detector_worker.models.pipeline_config import PipelineFile
from detector_worker.models.pipeline_json.checks import template_faults
from detector_worker.models.pipeline_json.templates import Placeholder, parse_template


def problems_of(**overrides: object) -> list[tuple[str, str]]:
    faults = template_faults(PipelineFile.model_validate(tiny_pipeline(**overrides)).pipeline)
    return [(path, what) for path, _, what in (fault.partition(": ") for fault in faults)]


def test_text_and_names_come_in_their_order() -> None:
    template = parse_template("a {record_id}:{brand_v1.brand} z")

    assert template.parts == ("a ", Placeholder("record_id"), ":", Placeholder("brand_v1.brand"), " z")
    assert template.names == ("record_id", "brand_v1.brand")


def test_a_sole_placeholder_is_told_apart_from_one_within_text() -> None:
    assert parse_template("{confidence}").sole_name == "confidence"
    assert parse_template("{confidence} ").sole_name is None


def test_doubled_braces_are_braces() -> None:
    assert parse_template('{{"a": {frame_id}}}').parts == ('{"a": ', Placeholder("frame_id"), "}")


@pytest.mark.parametrize(
    "text", ["{x!r}", "{x:>10}", "{x[0]}", "{0}", "{}", "{", "}", "a}b", "{a b}", "{a..b}", "{.a}", "{a.}", "{a{b}}"]
)
def test_anything_but_a_plain_name_is_refused(text: str) -> None:
    with pytest.raises(PipelineError, match="brace"):
        parse_template(text)


@given(st.text(max_size=200))
def test_escaped_text_is_the_text_itself(text: str) -> None:
    template = parse_template(text.replace("{", "{{").replace("}", "}}"))

    assert "".join(map(str, template.parts)) == text
    assert template.names == ()


@given(st.text(alphabet="{}a.[]!:_x0", max_size=30))
def test_any_text_parses_or_is_refused_as_ours(text: str) -> None:
    with contextlib.suppress(PipelineError):
        parse_template(text)


def test_every_name_of_a_right_pipeline_is_known() -> None:
    assert problems_of() == []


def test_a_misspelt_name_is_found_with_its_path_and_a_hint() -> None:
    action = {"type": "publish_message", "channel": "x", "message": {"deep": ["{record_ib}"]}}

    [(path, what)] = problems_of(actions=[action])

    assert path == "pipeline.actions[0].message.deep[0]"
    assert "'record_id'" in what


def test_an_attribute_is_no_name() -> None:
    action = {"type": "publish_message", "channel": "{record_id.__class__}", "message": "x"}

    assert [path for path, _ in problems_of(actions=[action])] == ["pipeline.actions[0].channel"]


def test_actions_before_the_branches_cannot_name_a_branch() -> None:
    action = {"type": "publish_message", "channel": "x", "message": "{tiny_hue_v1.hue}"}

    assert [path for path, _ in problems_of(actions=[action])] == ["pipeline.actions[0].message"]
    assert problems_of(actions=[], parallelActions=[action]) == []


def test_an_action_can_name_earlier_actions_only() -> None:
    image = {"type": "redis_save_image", "key": "k"}
    tells = {"type": "publish_message", "channel": "x", "message": "{redis_save_image.key}"}

    assert problems_of(actions=[image, tells]) == []
    assert [path for path, _ in problems_of(actions=[tells, image])] == ["pipeline.actions[0].message"]


def test_the_field_of_a_condition_is_a_known_name() -> None:
    action = {"type": "publish_message", "channel": "x", "message": "x", "when": {"field": "confidense"}}

    assert [path for path, _ in problems_of(actions=[action])] == ["pipeline.actions[0].when.field"]
